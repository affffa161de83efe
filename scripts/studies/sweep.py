"""Rule sweep: gather the trainings of one study into a table and a figure."""


def main(*, rows, table, figure, root="results"):
    """Write the table and the figure of a sweep from the trainings that exist.

    Parameters
    ----------
    rows : list of dict
        Its trainings, see `otrain_core.studies.sweep.plan_sweep`.
    table, figure : path
        CSV and picture written.
    root : path
        Folder of the results.
    """
    from otrain_core.figures.canvas import save_figure
    from otrain_core.figures.sweep import draw_sweep
    from otrain_core.io import write_table
    from otrain_core.studies.sweep import gather_sweep

    result = gather_sweep(rows, root=root)
    write_table(table, result)
    save_figure(figure, draw_sweep(result))


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            rows=snakemake.params.rows,
            table=snakemake.output.table,
            figure=snakemake.output.figure,
        )
