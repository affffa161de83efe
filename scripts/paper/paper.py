"""Rule paper: claims, captions and page of the regenerated paper."""

from pathlib import Path


def main(*, folder, plan, page, claims, captions, about, comparison, root="results"):
    """Write them.

    Parameters
    ----------
    folder : path
        Holds all figures and tables.
    plan : dict
        As from `otrain_core.paper.plan.plan_paper`.
    page, claims, captions, about, comparison : path
        HTML, CSV, text, JSON (commit, versions and machine) and CSV (table 5, means over seeds) written.
    root : path
        Folder of the results.
    """
    from otrain_core import io
    from otrain_core.jobs.provenance import provenance
    from otrain_core.paper.claims import complete, list_claims
    from otrain_core.paper.figures import read_data
    from otrain_core.paper.paper import build_page, captions_text
    from otrain_core.paper.tables import condensed, read_experiments, summary_of

    studies = {
        name: read_data(Path(folder, f"{figure}.csv")) for name, figure in (("data_size", "fig11"), ("size", "fig12"))
    }
    said = complete(list_claims(summary_of(plan, root), plan, **studies))
    made = read_data(Path(folder, "table5.csv"))
    shown = condensed(made, read_experiments(root)) if len(made) else made
    record = provenance() | {key: plan[key] for key in ("cubes", "experiments", "seeds", "protocols")}
    io.write_table(claims, said)
    io.write_table(comparison, shown)
    io.write_json(about, record)
    for path, text in (
        (captions, captions_text(folder)),
        (page, build_page(folder, claims=said, condensed=shown, about=record)),
    ):
        with io.atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


if "snakemake" in globals():
    from otrain_core.jobs.job import job_logging

    with job_logging(snakemake):
        main(
            folder=Path(snakemake.output.page).parent,
            plan=snakemake.params.plan,
            **dict(snakemake.output.items()),
        )
