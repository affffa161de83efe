"""Rule report: write the report page of the run."""

from pathlib import Path
from typing import Any

from otrain_core import io
from otrain_core.job import provenance
from otrain_core.report import build_report
from otrain_core.summary import read_record


def main(
    *,
    summary: str,
    quality: str,
    pipelines: str,
    artefacts: str,
    telescopes: str,
    report: str,
    cubes: list[str],
    runs: list[str],
    config: dict[str, Any],
    rows: dict[str, dict[str, Any]],
    mlflow: str | None = None,
    root: str = "results",
) -> None:
    """Write the page from what exists under `root`.

    Parameters
    ----------
    summary, quality, pipelines, artefacts, telescopes : str
        The tables of the rule summary.
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
    """
    page = build_report(
        summary=io.read_table(summary),
        quality=io.read_table(quality),
        comparison={
            "pipelines": io.read_table(pipelines),
            "artefacts": io.read_table(artefacts),
            "telescopes": io.read_table(telescopes),
        },
        cubes={cube: Path(root, cube) for cube in cubes},
        runs=runs,
        config=config,
        telescopes=rows,
        mlflow=read_record(mlflow) if mlflow else None,
        benchmarks=Path(root, "benchmarks"),
        about=provenance(),
    )
    with io.atomic(report) as temporary:
        temporary.write_text(page, encoding="utf-8")


if "snakemake" in globals():
    from otrain_core.job import job_logging

    with job_logging(snakemake):  # noqa: F821
        main(
            summary=snakemake.input.summary,  # noqa: F821
            quality=snakemake.input.quality,  # noqa: F821
            pipelines=snakemake.input.pipelines,  # noqa: F821
            artefacts=snakemake.input.artefacts,  # noqa: F821
            telescopes=snakemake.input.telescopes,  # noqa: F821
            report=snakemake.output.report,  # noqa: F821
            cubes=list(snakemake.params.cubes),  # noqa: F821
            runs=list(snakemake.params.runs),  # noqa: F821
            config=dict(snakemake.params.config),  # noqa: F821
            rows=dict(snakemake.params.rows),  # noqa: F821
            mlflow=snakemake.input.mlflow,  # noqa: F821
        )
