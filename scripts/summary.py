"""Rule summary: gather the tables of a run: trainings, images, pipelines, artefacts, telescopes."""

from pathlib import Path

from otrain_core import io
from otrain_core.comparison import compare_pipelines, compare_telescopes, count_artefacts
from otrain_core.summary import build_quality, build_summary, quality_row


def main(
    *,
    cubes: list[str],
    images: dict[str, list[str]],
    runs: list[str],
    summary: str,
    quality: str,
    pipelines: str,
    artefacts: str,
    telescopes: str,
    root: str = "results",
) -> None:
    """Write the tables from what exists under `root`.

    Parameters
    ----------
    cubes : list of str
        telescope/pipeline of each cube.
    images : dict of str to list of str
        Names of the science images of each telescope.
    runs : list of str
        Folders of the trainings.
    summary, quality, pipelines, artefacts, telescopes : str
        The tables.
    """
    io.write_table(summary, build_summary(runs))
    rows = []
    for cube in cubes:
        telescope, pipeline = cube.split("/")
        for image in images.get(telescope, []):
            owners = [f"{telescope}/{pipeline}/{image}", f"{telescope}/sky/{image}"]
            rows.append(
                quality_row(
                    Path(root, cube, "images", image),
                    telescope=telescope,
                    pipeline=pipeline,
                    failures=[Path(root, "failures", owner) for owner in owners],
                    benchmarks=[Path(root, "benchmarks", owner) for owner in owners],
                )
            )
    table = build_quality(rows)
    io.write_table(quality, table)
    io.write_table(pipelines, compare_pipelines(table))
    io.write_table(artefacts, count_artefacts(table, {cube: Path(root, cube) for cube in cubes}))
    io.write_table(telescopes, compare_telescopes(table))


if "snakemake" in globals():
    from otrain_core.job import job_logging

    with job_logging(snakemake):  # noqa: F821
        main(
            cubes=list(snakemake.params.cubes),  # noqa: F821
            images=dict(snakemake.params.images),  # noqa: F821
            runs=list(snakemake.params.runs),  # noqa: F821
            summary=snakemake.output.summary,  # noqa: F821
            quality=snakemake.output.quality,  # noqa: F821
            pipelines=snakemake.output.pipelines,  # noqa: F821
            artefacts=snakemake.output.artefacts,  # noqa: F821
            telescopes=snakemake.output.telescopes,  # noqa: F821
        )
