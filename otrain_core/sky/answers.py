"""Answers of network services: asked for with patience, kept on disk, never asked for twice."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from otrain_core import io
from otrain_core.errors import ConfigError

ATTEMPTS = 4
WAIT = 5.0  # before the second attempt [s]; doubled before each further one
TIMEOUT = 120  # of one request [s]

log = logging.getLogger("otrain")


def cache_path(cache: str | Path, *, service: str, parameters: dict[str, Any], suffix: str) -> Path:
    """File of an answer: the service, and a digest of everything that was asked."""
    text = json.dumps({"service": service, **parameters}, sort_keys=True)
    return Path(cache) / f"{service}-{hashlib.sha256(text.encode()).hexdigest()[:20]}{suffix}"


def answer(
    fetch: Callable[[int, Path], None],
    *,
    service: str,
    parameters: dict[str, Any],
    cache: str | Path,
    suffix: str = ".csv",
    attempts: int | None = None,
    wait: float | None = None,
) -> Path:
    """File with the answer of a service, from the cache or from the network.

    Parameters
    ----------
    fetch : callable
        ``fetch(attempt, path)`` asks the service, checks the answer and writes it to `path`.
        Whatever it raises counts as no answer, and is tried again.
    service : str
        Name of the service, for the file and for errors.
    parameters : dict
        All that was asked; two questions with the same parameters share an answer. Errors tell
        the texts and numbers among them.
    cache : path-like
        Folder of answers. An answer appears there whole, so that several jobs can share it.
    suffix : str
        Of the file.
    attempts, wait : int, float, optional
        Number of tries and pause before the second [s] (default `ATTEMPTS`, `WAIT`).

    Raises
    ------
    ConfigError
        No answer, and none in the cache.
    """
    path = cache_path(cache, service=service, parameters=parameters, suffix=suffix)
    if path.is_file():
        log.info("%s: answer kept in %s", service, path)
        return path
    attempts, pause = attempts or ATTEMPTS, WAIT if wait is None else wait
    for attempt in range(attempts):
        try:
            with io.atomic(path) as temporary:
                fetch(attempt, temporary)
            return path
        except Exception as error:  # astroquery, its parsers and the network raise many kinds
            reason = _short(error)
            log.info("%s: attempt %d of %d: %s", service, attempt + 1, attempts, reason, exc_info=True)
        if attempt + 1 < attempts:
            time.sleep(pause * 2**attempt)
    asked = ", ".join(f"{key} {value}" for key, value in parameters.items() if isinstance(value, str | int | float))
    raise ConfigError(
        f"{service} ({asked}): no answer after {attempts} attempts ({reason}), and none is kept in {cache}; compute nodes "
        f"often have no network: run this step once on a machine that has one, its answers are kept in that folder"
    )


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    text = re.sub(r" object at 0x[0-9a-f]+", "", text)
    return text if len(text) <= 200 else text[:200] + "..."
