"""Where a result comes from: commit, versions, time, machine."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from otrain_core import __version__

PACKAGES = (
    "numpy",
    "astropy",
    "pandas",
    "scipy",
    "sep",
    "photutils",
    "astroscrappy",
    "keras",
    "tensorflow",
    "jax",
    "torch",
)


def provenance() -> dict[str, Any]:
    """Commit, versions, time and machine, for the record of a run."""
    versions = {"otrain": __version__, "python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package == "tensorflow":
                with suppress(importlib.metadata.PackageNotFoundError):
                    versions[package] = importlib.metadata.version("tensorflow-cpu")
    return {
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": os.cpu_count(),
        "versions": versions,
    }


def commit() -> str:
    """Commit of the checkout, with ``+`` when it has local changes; '' outside git."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
