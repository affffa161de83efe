"""Rule track: import every training into the MLflow store and name the champions."""

from pathlib import Path
from typing import Any

from otrain_core.io import write_json
from otrain_core.track import import_runs


def main(*, runs: list[str], store: str, record: str, gate: dict[str, Any], artifacts: str | None = None) -> None:
    """Import the trainings in the folders `runs` and write what was imported to `record`.

    Parameters
    ----------
    store : str
        SQLite file; the artifacts go to `artifacts`, by default mlartifacts beside it.
    gate : dict
        min_mcc and max_fp.
    """
    artifacts = artifacts or str(Path(store).parent / "mlartifacts")
    imported = import_runs(runs, store=store, artifacts=artifacts, **gate)
    write_json(record, {"store": f"sqlite:///{store}", "artifacts": artifacts, **imported})


if "snakemake" in globals():
    from otrain_core.job import job_logging

    with job_logging(snakemake):  # noqa: F821
        main(
            runs=list(snakemake.params.runs),  # noqa: F821
            store=snakemake.params.store,  # noqa: F821
            record=snakemake.output.record,  # noqa: F821
            gate=dict(snakemake.params.gate),  # noqa: F821
        )
