"""What every job of the workflow shares: its log, its failures, its provenance."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otrain_core.errors import ImageError, OtrainError, UpstreamFailed

KEEP_GOING = "OTRAIN_KEEP_GOING"  # set by the Snakefile under --keep-going

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
