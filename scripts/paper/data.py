"""Rule paper_data: the small table behind one figure of the paper, and its caption."""


def main(*, figure, plan, table, caption, root="results"):
    """Write the table and the caption.

    Parameters
    ----------
    figure : str
        fig01 to fig13, figA1 to figA4.
    plan : dict
        As from `otrain_core.paper.plan.plan_paper`.
    table, caption : path
        CSV and JSON written.
    root : path
        Folder of the results.
    """
    from otrain_core.io import write_json, write_table
    from otrain_core.paper.captions import make_caption
    from otrain_core.paper.data import figure_data

    data, facts = figure_data(figure, plan, root=root)
    write_table(table, data)
    write_json(caption, make_caption(figure, plan, facts, data))


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            figure=snakemake.wildcards.figure,
            plan=snakemake.params.plan,
            table=snakemake.output.table,
            caption=snakemake.output.caption,
        )
