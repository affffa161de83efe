"""Registered models of telescopes: listed, found by name, promoted and rolled back.

The registry is that of the server given by ``MLFLOW_TRACKING_URI``, or else ``mlflow.db`` in a results folder.
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
BY_HAND = "champion_by_hand"  # tag of a registered model; if true, an import does not change its champion
ONNX = "model.onnx"
CHOICES = 20  # most times that a champion is chosen again because new versions have appeared
WARNING = (
    "Loading a version with MLflow (mlflow.pyfunc.load_model) runs the Python code that is stored with it: load only "
    "versions from people whom you trust. `otrain classify` uses model.onnx, which contains no code, and checks its digest."
)
MOST_BYTES = 2**30  # largest model file, as in `otrain_core.classify.classifier`; ours are below 20 MB


def find_model(name: str, *, results: str | Path = "results") -> Path:
    """Find the file of a model.

    Parameters
    ----------
    name : str
        ``universal`` (the shipped model; write ``./universal`` for a file or folder of that name), a file, a folder with
        ``model.onnx``, or a registered telescope: ``TCA`` or ``otrain-TCA`` (its champion), ``TCA@previous`` (an
        alias), ``TCA@3`` (a version).
    results : path-like
        Results folder in which the model was registered. If ``MLFLOW_TRACKING_URI`` is set, the model is downloaded from
        that server once and kept in ``~/.cache/otrain``.

    Raises
    ------
    OtrainError
        The file, model, alias or version does not exist, or the training has been deleted or repeated.
    """
    if name == NAME:
        return shipped_file()
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / ONNX).is_file():
            raise OtrainError(f"{path}: no {ONNX} in this folder; make it with `otrain models export {path}`")
        return path / ONNX
    if "/" in name or path.suffix in (".onnx", ".keras", ".h5"):
        raise OtrainError(f"{name}: no such file")
    telescope, _, which = name.partition("@")
    with _registry(results) as client:
        version = _find_version(client, _full(telescope), which or CHAMPION)
        address = server_address()
        return _onnx_from_server(version, address) if address else _onnx_of_training(version, results)


def list_models(*, results: str | Path = "results") -> list[dict[str, Any]]:
    """List the registered models, sorted by name and version.

    Returns
    -------
    list of dict
        model, version, alias, pipeline, experiment, seed, mcc, mcc_validation, threshold, gate ("passed" or "failed:" with
        the reason), superseded (the training was repeated), by_hand (the champion was chosen by hand).

    Raises
    ------
    OtrainError
        There is no store, or it cannot be opened.
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
    """Make a version the champion of its telescope; the last champion gets the alias ``previous``.

    From then on an import of trainings does not change the champion, see `automatic`.

    Returns
    -------
    dict
        model, version, previous (None if there was no champion), gate (tag of the version).

    Raises
    ------
    OtrainError
        There is no such model or version.
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
    """Make the previous champion the champion again; the two exchange their aliases.

    Raises
    ------
    OtrainError
        There is no such model, or no previous champion.
    """
    with _registry(results) as client:
        before = _find_version(client, _full(name), PREVIOUS)
    return promote(name, int(before.version), results=results)


def automatic(name: str, *, results: str | Path = "results") -> dict[str, Any]:
    """Let the import of trainings (rule track) choose the champion again."""
    full = _full(name)
    with _registry(results) as client:
        _registered_model(client, full)
        client.set_registered_model_tag(full, BY_HAND, "false")
    return {"model": full, "by_hand": False}


def _full(name: str) -> str:
    return name if name.startswith("otrain-") else f"otrain-{name}"


@contextmanager
def _registry(results: str | Path) -> Iterator[Any]:
    """Open a client of the registry; errors of the registry are raised as one sentence."""
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
        raise OtrainError(f"{full}: no such registered model; registered are: {', '.join(known) or 'none'}") from None


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
        raise OtrainError(f"{full}: no version or alias {which!r}; its aliases are: {aliases}") from None


def _unless_missing(error) -> None:
    if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
        raise error


def _onnx_of_training(version, results: str | Path) -> Path:
    """ONNX file of the training from which a version was registered."""
    tags, named = version.tags, f"{version.name} version {version.version}"
    parts = [tags.get(key, "") for key in ("telescope", "pipeline", "experiment", "seed")]
    # The store may come from somebody else: its tags must not lead to other folders.
    if not all(re.fullmatch(NAME_PATTERN, part) for part in parts) or not parts[-1].isdigit():
        raise OtrainError(
            f"{named}: its tags (telescope, pipeline, experiment, seed) do not name a training; import it again"
        )
    telescope, pipeline, experiment, seed = parts
    folder = Path(results, training_folder(f"{telescope}/{pipeline}", experiment, int(seed)))
    if not (folder / ONNX).is_file():
        raise OtrainError(f"{named}: {folder / ONNX}: no such file; make it with `otrain models export {folder}`")
    if tags.get("digest") != records_digest(folder):
        raise OtrainError(
            f"{named}: the training in {folder} has been repeated since; run the rule track again, or give a file"
        )
    return folder / ONNX


def _onnx_from_server(version, address: str) -> Path:
    """ONNX file of a version on a server, from the cache or downloaded.

    Everybody with write access to the server can change its tags and files. The tag is therefore used as part of a path
    only if it is a digest, and a file enters the cache only if it has that digest.
    """
    named, wanted = f"{version.name} version {version.version}", version.tags.get("onnx")
    if not wanted:
        raise OtrainError(
            f"{named}: {shown(address)} has no {ONNX} for it; run `otrain models export`, then `otrain models import`"
        )
    if not re.fullmatch("[0-9a-f]{64}", wanted):
        raise OtrainError(f"{named}: its tag onnx on {shown(address)} is not a SHA-256 digest; import it again")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "otrain", "models")
    kept = cache / wanted / ONNX
    if kept.is_file() and digest(kept) == wanted:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        found = _download(str(version.source), folder, address=address, named=named)
        if digest(found) != wanted:
            raise OtrainError(
                f"{named}: the {ONNX} on {shown(address)} is not the one that was imported; import it again"
            )
        kept.parent.mkdir(exist_ok=True)
        os.replace(found, kept)
    return kept


def _download(source: str, folder: str, *, address: str, named: str) -> Path:
    """Download the file model.onnx of a registered model into an empty folder.

    Raises
    ------
    OtrainError
        The server has no such file, has a folder of that name, or the file is larger than any model.
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
        raise OtrainError(f"{named}: {shown(address)} did not send one file {ONNX}; import it again")
    return found


def ensure_version(client, run_id: str, *, name: str, tags: Mapping[str, str], description: str) -> int:
    """Register the model of a run if it is not yet registered, and tag older versions of its training as superseded.

    Parameters
    ----------
    client : mlflow.MlflowClient
    run_id : str
        Identifier of a run that has the tag model_id.
    name : str
        Name of the registered model, which is created if it does not exist.
    tags : mapping
        Tags of the version; training, place and telescope are required.
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
        # Earlier imports may lack tags: model.onnx is exported later, and newer gates check more scores.
        if key not in first.tags or (key == "onnx" and first.tags[key] != value):
            insist(client.set_model_version_tag, name, first.version, key, value)
    for version in versions:
        same = all(version.tags.get(key, tags[key]) == tags[key] for key in ("training", "place"))
        if same and int(version.version) != number and "superseded" not in version.tags:
            insist(client.set_model_version_tag, name, version.version, "superseded", str(number))
    return number


def _ensure_model(client, name: str, telescope: str) -> None:
    """Create the registered model, or update its description."""
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
    """Choose the champion: of the versions that pass the gate on the test set, the one with the highest validation MCC.

    If no version passes, no version is the champion. A champion chosen by hand is kept. If others import at the same
    time, the choice is repeated until no new version has appeared, at most `CHOICES` times. The tag ``gate`` of each
    version states whether it passes.

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
            rank = mcc_validation if np.isfinite(mcc_validation) else -np.inf  # older imports did not write it
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
    """Make a version the champion, and describe it in a tag of the registered model."""
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
