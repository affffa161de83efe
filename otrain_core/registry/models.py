"""Registered models of telescopes: listed, found by name, promoted and rolled back.

They are those of the server that ``MLFLOW_TRACKING_URI`` names, or else of ``mlflow.db`` in a results folder.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.classify.shipped import NAME, shipped_file
from otrain_core.errors import OtrainError
from otrain_core.evaluation.gate import NUMBERS, refusal
from otrain_core.io import digest
from otrain_core.plan.config import GateOptions
from otrain_core.plan.sections import NAME_PATTERN
from otrain_core.registry.records import records_digest
from otrain_core.registry.store import insist, read_server, read_store, server_address, shown, told
from otrain_core.results import store_path, training_folder

log = logging.getLogger("otrain")

CHAMPION, PREVIOUS = "champion", "previous"
BY_HAND = "champion_by_hand"  # tag of a registered model whose champion an import must not change
ONNX = "model.onnx"
CHOICES = 20  # of a champion, while new versions come
WARNING = (
    "Loading a version with MLflow (mlflow.pyfunc.load_model) runs the Python code that is stored with it: load only "
    "versions of people you trust. `otrain classify` takes model.onnx, which is data, and checks its digest."
)
MOST_BYTES = 2**30  # of a model file, as in `otrain_core.classify.classifier`; ours have below 20 MB


def find_model(name: str, *, results: str | Path = "results") -> Path:
    """File of a model.

    Parameters
    ----------
    name : str
        ``universal`` (the shipped model; a file or folder of that name is ``./universal``), a file, a folder with
        ``model.onnx``, or a registered telescope: ``TCA`` or ``otrain-TCA`` (its champion), ``TCA@previous`` (an
        alias), ``TCA@3`` (a version).
    results : path-like
        Folder of the run that registered it. Where ``MLFLOW_TRACKING_URI`` names a server, the model comes from
        there, once: it is kept in ``~/.cache/otrain``.

    Raises
    ------
    OtrainError
        No such file or model, no model with that alias, or its training is gone or was done anew.
    """
    if name == NAME:
        return shipped_file()
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
    with _registry(results) as client:
        version = _find_version(client, _full(telescope), which or CHAMPION)
        address = server_address()
        return _onnx_from_server(version, address) if address else _onnx_of_training(version, results)


def list_models(*, results: str | Path = "results") -> list[dict[str, Any]]:
    """Registered models, by name and version: model, version, alias, experiment, seed, mcc, mcc_validation, threshold,
    gate ('passed', or what it failed at).

    Raises
    ------
    OtrainError
        No store, or one that cannot be opened.
    """
    rows = []
    with _registry(results) as client:
        for model in sorted(client.search_registered_models(), key=lambda model: model.name):
            aliases: dict[str, list[str]] = {}
            for alias, number in model.aliases.items():
                aliases.setdefault(str(number), []).append(alias)
            versions = client.search_model_versions(f"name = '{model.name}'")
            for version in sorted(versions, key=lambda version: int(version.version)):
                tags = version.tags
                kept = ("pipeline", "experiment", "seed", "mcc", "mcc_validation", "threshold", "gate")
                told = {key: tags.get(key, "") for key in kept}
                rows.append(
                    {
                        "model": model.name,
                        "version": int(version.version),
                        "alias": ", ".join(sorted(aliases.get(str(version.version), []))),
                        **told,
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
        model, version, previous (None where there was no champion), gate (what the version's tag says).

    Raises
    ------
    OtrainError
        No such model or version.
    """
    full = _full(name)
    with _registry(results) as client:
        wanted = _find_version(client, full, str(version))
        current = client.get_registered_model(full).aliases.get(CHAMPION)
        if current is not None and int(current) != int(wanted.version):
            client.set_registered_model_alias(full, PREVIOUS, str(current))
        _crown(client, full, wanted)
        client.set_registered_model_tag(full, BY_HAND, "true")
    previous = None if current is None else int(current)
    return {"model": full, "version": int(wanted.version), "previous": previous, "gate": wanted.tags.get("gate", "")}


def roll_back(name: str, *, results: str | Path = "results") -> dict[str, Any]:
    """Make the version that was champion before the champion again; the two change places.

    Raises
    ------
    OtrainError
        No such model, or nothing to roll back to.
    """
    with _registry(results) as client:
        before = _find_version(client, _full(name), PREVIOUS)
    return promote(name, int(before.version), results=results)


def automatic(name: str, *, results: str | Path = "results") -> dict[str, Any]:
    """Leave the choice of the champion to the import of trainings again (rule track)."""
    full = _full(name)
    with _registry(results) as client:
        _registered_model(client, full)
        client.set_registered_model_tag(full, BY_HAND, "false")
    return {"model": full, "by_hand": False}


def _full(name: str) -> str:
    return name if name.startswith("otrain-") else f"otrain-{name}"


@contextmanager
def _registry(results: str | Path) -> Iterator[Any]:
    """Client of the registry; what it refuses is told in one sentence."""
    address = server_address()
    client = read_server(address) if address else read_store(store_path(results))
    with told(address or store_path(results)):
        yield client


def _registered_model(client, full: str):
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(full)
    except MlflowException as error:
        _unless_missing(error)
        known = sorted(model.name for model in client.search_registered_models())
        raise OtrainError(f"{full}: no such registered model; there are {', '.join(known) or 'none'}") from None


def _find_version(client, full: str, which: str):
    from mlflow.exceptions import MlflowException

    model = _registered_model(client, full)
    try:
        if which.isdigit():
            return client.get_model_version(full, which)
        return client.get_model_version_by_alias(full, which)
    except MlflowException as error:
        _unless_missing(error)
        aliases = ", ".join(sorted(model.aliases)) or "none"
        raise OtrainError(f"{full}: no version {which!r}; its aliases are {aliases}") from None


def _unless_missing(error) -> None:
    if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        raise error


def _onnx_of_training(version, results: str | Path) -> Path:
    """The ONNX file of the training that a version is of."""
    tags, named = version.tags, f"{version.name} version {version.version}"
    parts = [tags.get(key, "") for key in ("telescope", "pipeline", "experiment", "seed")]
    if (
        not all(re.fullmatch(NAME_PATTERN, part) for part in parts) or not parts[-1].isdigit()
    ):  # a store may come from somebody else
        raise OtrainError(
            f"{named}: its tags name no training (telescope, pipeline, experiment, seed); import it again"
        )
    telescope, pipeline, experiment, seed = parts
    folder = Path(results, training_folder(f"{telescope}/{pipeline}", experiment, int(seed)))
    if not (folder / ONNX).is_file():
        raise OtrainError(f"{named}: {folder / ONNX}: no such file; write it with `otrain models export {folder}`")
    if tags.get("digest") != records_digest(folder):
        raise OtrainError(f"{named}: {folder} has been trained anew since; run the rule track again, or name a file")
    return folder / ONNX


def _onnx_from_server(version, address: str) -> Path:
    """The ONNX file of a version on a server, from the cache or from the server.

    Everybody who may write to the server chooses its tags and its files: the tag is used as a path only where it is
    a digest, and a file comes to the cache only when it has that digest.
    """
    named, wanted = f"{version.name} version {version.version}", version.tags.get("onnx")
    if not wanted:
        raise OtrainError(
            f"{named}: {shown(address)} has no {ONNX} of it; write it (otrain models export) and import again"
        )
    if not re.fullmatch("[0-9a-f]{64}", wanted):
        raise OtrainError(f"{named}: its tag onnx on {shown(address)} is not a digest (SHA-256); import it again")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "otrain", "models")
    kept = cache / wanted / ONNX
    if kept.is_file() and digest(kept) == wanted:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        found = _download(str(version.source), folder, address=address, named=named)
        if digest(found) != wanted:
            raise OtrainError(f"{named}: {shown(address)} has another {ONNX} than was imported; import it again")
        kept.parent.mkdir(exist_ok=True)
        os.replace(found, kept)
    return kept


def _download(source: str, folder: str, *, address: str, named: str) -> Path:
    """Download the file model.onnx of a registered model into an empty folder.

    Raises
    ------
    OtrainError
        The server has no such file, a folder of that name, or a file larger than any model.
    """
    import mlflow

    listed = mlflow.artifacts.list_artifacts(artifact_uri=source, tracking_uri=address)
    sizes = [file.file_size or 0 for file in listed if Path(file.path).name == ONNX and not file.is_dir]
    if len(sizes) != 1 or sizes[0] > MOST_BYTES:
        raise OtrainError(
            f"{named}: {shown(address)} has no file {ONNX} of at most {MOST_BYTES >> 20} MB; import it again"
        )
    mlflow.artifacts.download_artifacts(artifact_uri=f"{source}/{ONNX}", dst_path=folder, tracking_uri=address)
    found = Path(folder, ONNX)
    if [path.name for path in Path(folder).iterdir()] != [ONNX] or found.is_symlink() or not found.is_file():
        raise OtrainError(f"{named}: what {shown(address)} sent is not one file {ONNX}; import it again")
    return found


def ensure_version(client, run_id: str, *, name: str, tags: Mapping[str, str], description: str) -> int:
    """Register the model of a run, once; older versions of the same training become superseded.

    Parameters
    ----------
    client : mlflow.MlflowClient
    run_id : str
        Run with the tag model_id.
    name : str
        Registered model, made if need be.
    tags : mapping
        Of the version, with training, place and telescope.
    description : str

    Returns
    -------
    int
        Number of the version.
    """
    _ensure_model(client, name, tags["telescope"])
    versions = client.search_model_versions(f"name = '{name}'")
    mine = [version for version in versions if version.run_id == run_id]
    if not mine:
        model = client.get_logged_model(client.get_run(run_id).data.tags["model_id"])
        mine = [
            client.create_model_version(
                name,
                source=model.artifact_location,
                run_id=run_id,
                model_id=model.model_id,
                tags=dict(tags),
                description=description,
            )
        ]
    first = min(mine, key=lambda version: int(version.version))
    number = int(first.version)
    for key, value in tags.items():
        # What an earlier import did not write: model.onnx is exported later, the gate learns to look at more.
        if key not in first.tags or (key == "onnx" and first.tags[key] != value):
            insist(client.set_model_version_tag, name, first.version, key, value)
    for version in versions:
        same = all(version.tags.get(key, tags[key]) == tags[key] for key in ("training", "place"))
        if same and int(version.version) != number and "superseded" not in version.tags:
            insist(client.set_model_version_tag, name, version.version, "superseded", str(number))
    return number


def _ensure_model(client, name: str, telescope: str) -> None:
    """Make the registered model, or give it the description of today."""
    from mlflow.exceptions import MlflowException

    words = f"Real/bogus classifier of telescope {telescope} (probability of True). {WARNING}"
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        _unless_missing(error)
        try:
            model = client.create_registered_model(name, description=words)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return
    if model.description != words:
        insist(client.update_registered_model, name, words)


def name_champion(client, telescope: str, *, gate: GateOptions) -> dict[str, Any] | None:
    """Give the alias to the version of highest MCC on validation among those that pass the gate on test, or to none.

    A champion chosen by hand stays. Where others import at the same time, it is chosen again until no version has
    come meanwhile, `CHOICES` times at most. The tag ``gate`` of every version tells whether it passes.

    Returns
    -------
    dict or None
        model, version, run_id, mcc, mcc_validation, pipeline, experiment, seed and threshold of the champion.
    """
    name = f"otrain-{telescope}"
    versions, seen = client.search_model_versions(f"name = '{name}'"), None
    for _ in range(CHOICES):
        if seen == (numbers := {version.version for version in versions}):
            break
        champion, seen = _choose(client, name, versions, gate), numbers
        versions = client.search_model_versions(f"name = '{name}'")
    return champion


def _choose(client, name: str, versions, gate: GateOptions) -> dict[str, Any] | None:
    passing, reasons = [], []
    for version in sorted(versions, key=lambda version: int(version.version)):
        numbers = {key: _float(version.tags.get(key)) for key in NUMBERS}
        reason = version.tags.get("collapsed") or refusal(numbers, gate, protocol=version.tags.get("protocol", ""))
        verdict = f"failed: {reason}" if reason else "passed"
        if version.tags.get("gate") != verdict:
            insist(client.set_model_version_tag, name, version.version, "gate", verdict)
        if reason and "superseded" not in version.tags:
            reasons.append(f"version {version.version}: {reason}")
        elif "superseded" not in version.tags:
            mcc_validation = _float(version.tags.get("mcc_validation"))
            rank = mcc_validation if np.isfinite(mcc_validation) else -np.inf  # versions of older imports lack it
            passing.append((rank, -int(version.version), version))
    model = client.get_registered_model(name)
    current = model.aliases.get(CHAMPION)
    if current is not None and model.tags.get(BY_HAND) == "true":
        return _champion(name, client.get_model_version(name, str(current)))
    if not passing:
        if current is not None:
            client.delete_registered_model_alias(name, CHAMPION)
            insist(client.set_registered_model_tag, name, CHAMPION, "none passes the gate")
        log.warning("%s: no model passes the gate (%s)", name, "; ".join(reasons))
        return None
    _, _, best = max(passing, key=lambda item: item[:2])
    if current is None or int(current) != int(best.version):
        _crown(client, name, best)
    return _champion(name, best)


def _crown(client, name: str, version) -> None:
    """Make a version the champion; the list of models says which it is."""
    tags = version.tags
    named = "/".join(tags.get(key, "") for key in ("pipeline", "experiment", "seed"))
    words = f"MCC {_float(tags.get('mcc')):.3f}, {named}"
    insist(client.set_registered_model_alias, name, CHAMPION, version.version)
    insist(client.set_registered_model_tag, name, CHAMPION, words)


def _champion(name: str, best) -> dict[str, Any]:
    scores = {key: value for key in ("mcc", "mcc_validation") if np.isfinite(value := _float(best.tags.get(key)))}
    named = {key: best.tags[key] for key in ("pipeline", "experiment", "seed", "threshold") if key in best.tags}
    return {"model": name, "version": int(best.version), "run_id": best.run_id, **scores, **named}


def _float(text: str | None) -> float:
    return float(text) if text else np.nan
