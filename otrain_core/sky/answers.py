"""Query network services with retries, and cache their answers on disk."""

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
WAIT = 5.0  # pause before the second attempt, doubled before each further attempt [s]
TIMEOUT = 120  # timeout of one request [s]

log = logging.getLogger("otrain")


def cache_path(cache: str | Path, *, service: str, parameters: dict[str, Any], suffix: str) -> Path:
    """Path of a cached answer, made of the service and a digest of the query."""
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
        ``fetch(attempt, path)`` queries the service, checks the answer and writes it to `path`.
        After any exception the query is tried again.
    service : str
        Name of the service, for the file name and for errors.
    parameters : dict
        The complete query; queries with the same parameters share an answer. Error messages list
        the texts and numbers in it.
    cache : path-like
        Folder of the cached answers. Files in it are always complete, so several jobs can share it.
    suffix : str
        Suffix of the file.
    attempts : int, optional
        Number of attempts (default `ATTEMPTS`).
    wait : float, optional
        Pause before the second attempt [s] (default `WAIT`).

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ConfigError
        The service does not answer, and the answer is not in the cache.
    """
    path = cache_path(cache, service=service, parameters=parameters, suffix=suffix)
    if path.is_file():
        log.info("%s: using the cached answer %s", service, path)
        return path
    attempts, pause = attempts or ATTEMPTS, WAIT if wait is None else wait
    for attempt in range(attempts):
        try:
            with io.atomic(path) as temporary:
                fetch(attempt, temporary)
            return path
        except Exception as error:  # astroquery, its parsers and the network raise many kinds of exceptions
            reason = _short(error)
            log.info("%s: attempt %d of %d: %s", service, attempt + 1, attempts, reason, exc_info=True)
        if attempt + 1 < attempts:
            time.sleep(pause * 2**attempt)
    asked = ", ".join(f"{key} {value}" for key, value in parameters.items() if isinstance(value, str | int | float))
    raise ConfigError(
        f"{service} ({asked}): no answer after {attempts} attempts ({reason}), and no cached answer in {cache}; compute "
        "nodes often have no network: run this step once on a machine with a network to fill this folder"
    )


def _short(error: Exception) -> str:
    """Type and first line of an exception, without addresses in memory."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    text = re.sub(r" object at 0x[0-9a-f]+", "", text)
    return text if len(text) <= 200 else text[:200] + "..."
