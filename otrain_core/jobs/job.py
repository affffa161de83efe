"""What every job of the workflow shares: its log, its failures, its provenance."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from otrain_core import __version__
from otrain_core.errors import ImageError, OtrainError, UpstreamFailed

KEEP_GOING = "OTRAIN_KEEP_GOING"  # set by the Snakefile under --keep-going
PACKAGES = (
    "numpy",
    "astropy",
    "pandas",
    "scipy",
    "sep",
    "photutils",
    "astroscrappy",
    "reproject",
    "keras",
    "tensorflow",
    "jax",
    "torch",
)

log = logging.getLogger("otrain")


@contextmanager
def job_logging(snakemake: Any) -> Iterator[None]:
    """Send log lines and uncaught tracebacks to the rule's log file.

    A problem with the user's input is told in one sentence. If the job belongs to
    one image and the run was started with ``--keep-going``, the image is left out:
    its outputs become failure marks that later steps pass on and the report lists.
    """
    log_path = Path(snakemake.log[0]) if snakemake.log else None
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_path:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_path, mode="w"))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=handlers, force=True
    )
    logging.getLogger("otrain").setLevel(logging.INFO)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every glyph that a PDF embeds
    handlers[0].setLevel(logging.WARNING)
    wildcards = dict(snakemake.wildcards.items())
    try:
        yield
    except ImageError as error:
        _record_failure(snakemake, wildcards, error)
        if os.environ.get(KEEP_GOING) != "1":
            log.error("%s", error)
            log.info("%s", traceback.format_exc())
            raise SystemExit(1) from None
        if not isinstance(error, UpstreamFailed):
            log.warning("%s (left out of the run)", error)
        _mark_outputs(snakemake, error)
    except OtrainError as error:
        log.error("%s", error)
        log.info("%s", traceback.format_exc())
        raise SystemExit(1) from None
    except OSError as error:
        log.error("rule %s: %s", snakemake.rule, error)
        log.info("%s", traceback.format_exc())
        raise SystemExit(1) from None
    except Exception:
        logging.getLogger("otrain").exception("rule %s failed for %s", snakemake.rule, wildcards or "this run")
        raise
    else:
        if "image" in wildcards:
            _failure_path(snakemake, wildcards).unlink(missing_ok=True)
    finally:
        for handler in handlers[1:]:
            handler.close()


def _failure_path(snakemake: Any, wildcards: dict[str, str]) -> Path:
    parts = [wildcards.get("telescope", "-"), wildcards.get("pipeline", "sky"), wildcards["image"]]
    return Path("results", "failures", *parts, f"{snakemake.rule}.json")


def _failure(error: ImageError, rule: str) -> dict[str, Any]:
    return {"image": error.image, "key": error.key, "message": error.message, "step": rule}


def _record_failure(snakemake: Any, wildcards: dict[str, str], error: ImageError) -> None:
    from otrain_core.io import write_json

    if "image" in wildcards and not isinstance(error, UpstreamFailed):
        write_json(_failure_path(snakemake, wildcards), _failure(error, snakemake.rule))


def _mark_outputs(snakemake: Any, error: ImageError) -> None:
    from otrain_core.io import write_json

    for path in snakemake.output:
        write_json(path, {"otrain_failed": _failure(error, snakemake.rule)})


@functools.cache  # every job of a cluster starts Snakemake twice, and that asks for dozens of digests
def _local_imports(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            names |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "otrain_core":
            if node.module == "otrain_core":
                names |= {alias.name for alias in node.names}
            else:
                names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("otrain_core.")}
    return frozenset(names)


# Modules whose text cannot change a result: errors, logging, the config's own digest is its values.
_NEUTRAL = {"errors", "job", "config", "pipelines", "sheets", "run", "__version__"}


@functools.cache
def code_digest(*modules: str) -> str:
    """Digest of library modules and of all library modules they import.

    Given to a rule as a parameter, so that editing a module reruns the steps that
    use it and no others.
    """
    folder = Path(__file__).parent
    seen: set[str] = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        path = folder / f"{name}.py"
        if name in seen or name in _NEUTRAL or not path.exists():
            continue
        seen.add(name)
        queue += _local_imports(path)
    sha = hashlib.sha256()
    for name in sorted(seen):
        sha.update(name.encode() + b"\0" + (folder / f"{name}.py").read_bytes())
    return sha.hexdigest()[:16]


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
