"""Registered models of telescopes: listed, found by name, promoted and rolled back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from otrain_core.errors import OtrainError

CHAMPION, PREVIOUS = "champion", "previous"
BY_HAND = "champion_by_hand"  # tag of a registered model whose champion an import must not change
ONNX = "model.onnx"


def find_model(name: str, *, results: str | Path = "results") -> Path:
    """File of a model.

    Parameters
    ----------
    name : str
        A file, a folder with ``model.onnx``, or a registered telescope: ``TCA`` or ``otrain-TCA`` (its champion),
        ``TCA@previous`` (an alias), ``TCA@3`` (a version).
    results : path-like
        Folder of the run that registered it.

    Raises
    ------
    OtrainError
        No such file or model, no model with that alias, or its training is gone or was done anew.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / ONNX).is_file():
            raise OtrainError(f"{path}: no {ONNX} in this folder; write it with `otrain models export {path}`")
        return path / ONNX
    if "/" in name or path.suffix in (".onnx", ".keras", ".h5"):
        raise OtrainError(f"{name}: no such file")
    telescope, _, which = name.partition("@")
    version = _version(_client(results), _full(telescope), which or CHAMPION)
    return _training(version, results)


def list_models(*, results: str | Path = "results") -> list[dict[str, Any]]:
    """Registered models, by name and version: model, version, alias, experiment, seed, mcc, mcc_tune, threshold.

    Raises
    ------
    OtrainError
        No store, or one that cannot be opened.
    """
    client, rows = _client(results), []
    for model in sorted(client.search_registered_models(), key=lambda model: model.name):
        aliases: dict[str, list[str]] = {}
        for alias, number in model.aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        versions = client.search_model_versions(f"name = '{model.name}'")
        for version in sorted(versions, key=lambda version: int(version.version)):
            tags = version.tags
            kept = ("pipeline", "experiment", "seed", "mcc", "mcc_tune", "threshold")
            rows.append(
                {
                    "model": model.name,
                    "version": int(version.version),
                    "alias": ", ".join(sorted(aliases.get(str(version.version), []))),
                    **{key: tags.get(key, "") for key in kept},
                    "superseded": "superseded" in tags,
                    "by_hand": model.tags.get(BY_HAND) == "true",
                }
            )
    return rows


def promote(name: str, version: int, *, results: str | Path = "results") -> dict[str, Any]:
    """Make a version the champion of its telescope; the one before becomes ``previous``.

    An import of trainings leaves the choice alone from then on, see `automatic`.

    Returns
    -------
    dict
        model, version, previous (None where there was no champion).

    Raises
    ------
    OtrainError
        No such model or version.
    """
    client, full = _client(results), _full(name)
    wanted = _version(client, full, str(version))
    current = client.get_registered_model(full).aliases.get(CHAMPION)
    if current is not None and int(current) != int(wanted.version):
        client.set_registered_model_alias(full, PREVIOUS, str(current))
    client.set_registered_model_alias(full, CHAMPION, wanted.version)
    client.set_registered_model_tag(full, BY_HAND, "true")
    return {"model": full, "version": int(wanted.version), "previous": None if current is None else int(current)}


def roll_back(name: str, *, results: str | Path = "results") -> dict[str, Any]:
    """Make the version that was champion before the champion again; the two change places.

    Raises
    ------
    OtrainError
        No such model, or nothing to roll back to.
    """
    client, full = _client(results), _full(name)
    before = _version(client, full, PREVIOUS)
    return promote(name, int(before.version), results=results)


def automatic(name: str, *, results: str | Path = "results") -> dict[str, Any]:
    """Leave the choice of the champion to the import of trainings again (rule track)."""
    client, full = _client(results), _full(name)
    _model(client, full)
    client.set_registered_model_tag(full, BY_HAND, "false")
    return {"model": full, "by_hand": False}


def _full(name: str) -> str:
    return name if name.startswith("otrain-") else f"otrain-{name}"


def _client(results: str | Path):
    from otrain_core.mlflow_store import read_store

    return read_store(Path(results, "mlflow.db"))


def _model(client, full: str):
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(full)
    except MlflowException:
        known = sorted(model.name for model in client.search_registered_models())
        raise OtrainError(f"{full}: no such registered model; there are {', '.join(known) or 'none'}") from None


def _version(client, full: str, which: str):
    from mlflow.exceptions import MlflowException

    model = _model(client, full)
    try:
        if which.isdigit():
            return client.get_model_version(full, which)
        return client.get_model_version_by_alias(full, which)
    except MlflowException:
        aliases = ", ".join(sorted(model.aliases)) or "none"
        raise OtrainError(f"{full}: no version {which!r}; its aliases are {aliases}") from None


def _training(version, results: str | Path) -> Path:
    """The ONNX file of the training that a version is of."""
    from otrain_core.track import records_digest

    tags = version.tags
    parts = [tags.get(key, "") for key in ("telescope", "pipeline", "experiment")]
    folder = Path(results, *parts, f"seed{tags.get('seed', '')}")
    named = f"{version.name} version {version.version}"
    if not (folder / ONNX).is_file():
        raise OtrainError(f"{named}: {folder / ONNX}: no such file; write it with `otrain models export {folder}`")
    if tags.get("digest") != records_digest(folder):
        raise OtrainError(f"{named}: {folder} has been trained anew since; run the rule track again, or name a file")
    return folder / ONNX
