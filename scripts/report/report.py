"""Rule report: write the report page of the run."""

from pathlib import Path
from typing import Any

from otrain_core import io
from otrain_core.evaluation.summary import TABLES
from otrain_core.jobs.provenance import provenance
from otrain_core.report.report import build_report
from otrain_core.results import read_record


def main(
    *,
    report: str,
    cubes: list[str],
    runs: list[str],
    config: dict[str, Any],
    rows: dict[str, dict[str, Any]],
    mlflow: str | None = None,
    root: str = "results",
    **tables: str,
) -> None:
    """Write the page from what exists under `root`.

    Parameters
    ----------
    report : str
        The page, one HTML file.
    cubes : list of str
        telescope/pipeline of each cube.
    runs : list of str
        Folders of the trainings.
    config, rows : dict
        The configuration and the rows of the telescope sheet.
    mlflow : str, optional
        Record of the rule track.
    **tables : str
        Files of all of `otrain_core.evaluation.summary.TABLES`.
    """
    read = {name: io.read_table(tables[name]) for name in TABLES}
    page = build_report(
        summary=read.pop("summary"),
        quality=read.pop("quality"),
        comparison=read,
        cubes={cube: Path(root, cube) for cube in cubes},
        runs=runs,
        config=config,
        telescopes=rows,
        mlflow=read_record(mlflow) if mlflow else None,
        root=root,
        benchmarks=Path(root, "benchmarks"),
        about=provenance(),
    )
    with io.atomic(report) as temporary:
        temporary.write_text(page, encoding="utf-8")


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            report=snakemake.output.report,
            cubes=list(snakemake.params.cubes),
            runs=list(snakemake.params.runs),
            config=dict(snakemake.params.config),
            rows=dict(snakemake.params.rows),
            mlflow=snakemake.input.mlflow,
            **{name: snakemake.input[name] for name in TABLES},
        )
