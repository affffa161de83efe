"""Rule paper_tables: one table of the paper as CSV and TeX, and its caption."""


def main(*, name, plan, table, tex, caption, root="results"):
    """Write the table.

    Parameters
    ----------
    name : str
        table1 to table5.
    plan : dict
        As from `otrain_core.paper.plan.plan_paper`.
    table, tex, caption : path
        CSV, TeX and JSON written.
    root : path
        Folder of the results.
    """
    from otrain_core.io import atomic, write_json, write_table
    from otrain_core.paper.captions import caption_text, make_caption
    from otrain_core.paper.tables import condensed, make_table, read_experiments, to_tex

    data, facts = make_table(name, plan, root=root)
    words = make_caption(name, plan, facts, data)
    shown = condensed(data, read_experiments(root)) if name == "table5" and len(data) else data
    write_table(table, data)
    write_json(caption, words)
    with atomic(tex) as temporary:
        temporary.write_text(to_tex(name, shown, caption_text(words)), encoding="utf-8")


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            name=snakemake.wildcards.table,
            plan=snakemake.params.plan,
            table=snakemake.output.table,
            tex=snakemake.output.tex,
            caption=snakemake.output.caption,
        )
