"""Rule track: import every training into the MLflow store and name the champions."""

import logging
from pathlib import Path
from typing import Any

from otrain_core.errors import OtrainError
from otrain_core.io import write_json
from otrain_core.registry.store import server_address, shown
from otrain_core.registry.track import import_runs

log = logging.getLogger("otrain")


def main(
    *, runs: list[str], store: str, record: str, gate: dict[str, Any], studies: list[str] | tuple[str, ...] = ()
) -> None:
    """Import the trainings in the folders `runs` and write what was imported to `record`.

    Where MLFLOW_TRACKING_URI names a server, they are imported there too; a server that does not answer is
    told of, and waits for `otrain models import`.

    Parameters
    ----------
    store : str
        SQLite file; the artifacts go to mlartifacts beside it.
    gate : dict
        min_mcc and max_fp.
    studies : list of str
        Tables of sweeps.
    """
    imported = import_runs(runs, store=store, studies=studies, **gate)
    if imported["broken"]:
        raise OtrainError("; ".join(entry["reason"] for entry in imported["broken"]))
    server = {}
    try:
        if address := server_address():
            server["server"] = {"address": shown(address), "runs": len(runs)}
            import_runs(runs, store=address, studies=studies, **gate)
    except OtrainError as error:
        log.warning("%s; %s has everything; import it later with `otrain models import`", error, store)
        server = {"server": {"error": str(error)}}
    artifacts = str(Path(store).parent / "mlartifacts")
    write_json(record, {"store": f"sqlite:///{store}", "artifacts": artifacts, **imported, **server})


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            runs=list(snakemake.params.runs),
            store=snakemake.params.store,
            record=snakemake.output.record,
            gate=dict(snakemake.params.gate),
            studies=list(snakemake.input.studies),
        )
