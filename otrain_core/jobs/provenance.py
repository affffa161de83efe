"""Provenance of a result: commit, versions, time and number of CPUs."""

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
    """Commit, versions, time (ISO, UTC) and number of CPUs, for the record of a job."""
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
    """Commit of the checkout of this package, with ``+`` if it has local changes; '' outside a checkout."""
    try:
        # A package that is installed within the folders of another repository is not part of its commit.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        head = _git("rev-parse", "--short=12", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changes else "")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
