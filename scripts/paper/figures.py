"""Rule paper_figures: draw one figure of the paper from its small table."""


def main(*, figure, table, caption, pictures):
    """Draw.

    Parameters
    ----------
    figure : str
        fig01 to fig13, figA1 to figA4.
    table, caption : path
        CSV and JSON of `scripts/paper/data.py`.
    pictures : list of path
        PNG and PDF written.
    """
    from otrain_core.figures.canvas import save_figure
    from otrain_core.io import read_json
    from otrain_core.paper.figures import draw_figure, read_data

    drawn = draw_figure(figure, read_data(table), read_json(caption))
    for picture in pictures:
        save_figure(picture, drawn)


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            figure=snakemake.wildcards.figure,
            table=snakemake.input.table,
            caption=snakemake.input.caption,
            pictures=list(snakemake.output),
        )
