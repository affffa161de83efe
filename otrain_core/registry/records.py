"""Records of a training that the store of runs is made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from otrain_core.io import digest

FORMAT = "3"  # raise it when runs must be imported anew because this module writes them differently


REQUIRED = ("train.json", "metrics.json", "history.csv", "model.keras")


RECORDS = (*REQUIRED[:3], "scores.csv", "curves.csv")


def records_digest(folder: str | Path) -> str:
    """Digest of the records and the model of a training: what makes it this one and no other."""
    folder = Path(folder)
    sha = hashlib.sha256(FORMAT.encode())
    for path in sorted(folder / name for name in (*RECORDS, "model.keras")):
        if path.is_file():
            sha.update(f"{path.name} {digest(path)}\n".encode())
    return sha.hexdigest()[:32]
