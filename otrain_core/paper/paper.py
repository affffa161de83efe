"""The reproduction of the paper as one page that needs no network, also from an unfinished run.

``python -m otrain_core.paper.paper config/paper.yaml`` draws the results so far into ``results/unfinished/paper``;
``python -m otrain_core.paper.paper --quote`` puts the tables and three pictures of ``results/paper`` into `PAGE`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from otrain_core.evaluation.words import count, num
from otrain_core.io import atomic, read_json, read_table, write_json, write_table
from otrain_core.jobs.provenance import provenance
from otrain_core.paper.captions import TITLES, caption_text
from otrain_core.paper.claims import CLAIM_COLUMNS, complete, list_claims
from otrain_core.paper.data import data_files, full_gaps
from otrain_core.paper.figures import figures_files, read_data
from otrain_core.paper.plan import FIGURES, TABLES, plan_paper
from otrain_core.paper.tables import condensed, read_experiments, summary_of, tables_files
from otrain_core.plan.run import Run
from otrain_core.report.text import page_templates

PAGE = "docs/explanation/paper.md"
MARK = "<!-- paper from here -->"
TABLE_COLUMNS = {  # columns shown on the page, for tables that are too wide for it
    "table2": (
        "telescope",
        "source",
        "filter",
        "pixel_scale",
        "paper_pixel_scale",
        "width",
        "height",
        "n_images",
        "seeing_arcsec",
        "limit_5sigma_mag",
        "field_sq_deg",
        "paper_aperture",
        "paper_field",
        "paper_filters",
    ),
}


def paper_files(
    *,
    plan: Mapping[str, Any],
    page: str | Path,
    claims: str | Path,
    captions: str | Path,
    about: str | Path,
    comparison: str | Path,
    root: str | Path = "results",
) -> None:
    """Write the claims, captions and page of the reproduction.

    Parameters
    ----------
    plan : mapping
        As from `otrain_core.paper.plan.plan_paper`.
    page : path-like
        HTML written, in the folder with all figures and tables.
    claims, captions, about, comparison : path-like
        CSV, text, JSON (commit, versions and machine) and CSV (table 5, means over seeds) written.
    root : path-like
        Folder of the results.
    """
    folder = Path(page).parent
    data_size, size = (read_data(folder / f"{figure}.csv") for figure in ("fig11", "fig12"))
    gaps = pd.concat([data_size, full_gaps(plan, root)], ignore_index=True)
    said = complete(list_claims(summary_of(plan, root), plan, data_size=gaps, size=size))
    made = read_data(folder / "table5.csv")
    shown = condensed(made, read_experiments(root)) if len(made) else made
    record = provenance() | {key: plan[key] for key in ("cubes", "experiments", "seeds", "protocols")}
    write_table(claims, said)
    write_table(comparison, shown)
    write_json(about, record)
    _write_text(captions, captions_text(folder))
    _write_text(page, build_page(folder, claims=said, condensed=shown, about=record))


def _write_text(path: str | Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def build_page(folder: str | Path, *, claims: pd.DataFrame, condensed: pd.DataFrame, about: Mapping[str, Any]) -> str:
    """The page of the reproduction as HTML.

    Parameters
    ----------
    folder : path-like
        Contains figNN.png, figNN.json, tableN.csv and tableN.json, see `otrain_core.paper.captions.make_caption`.
    claims : pandas.DataFrame
        As from `otrain_core.paper.claims.list_claims`.
    condensed : pandas.DataFrame
        Short form of Table 5, see `otrain_core.paper.tables.condensed`.
    about : mapping
        commit, cpus and versions of this run.

    Returns
    -------
    str
        A page that needs no other file and no network.
    """
    folder = Path(folder)
    figures = [_figure(folder, name) for name in FIGURES]
    tables = [_table(folder, name, condensed) for name in TABLES]
    environment = page_templates(Path(__file__).with_name("templates"))
    return environment.get_template("paper.html").render(
        figures=figures,
        tables=tables,
        missing=[part["caption"] for part in [*figures, *tables] if not part["caption"]["made"]],
        claims=claims.reindex(columns=list(CLAIM_COLUMNS)).astype(object).where(claims.notna(), "").to_dict("records"),
        about={
            "commit": "",
            "cpus": "",
            "versions": {},
            **about,
            "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        },
    )


def _figure(folder: Path, name: str) -> dict[str, Any]:
    caption, picture = read_json(folder / f"{name}.json"), (folder / f"{name}.png").read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(picture).decode()
    return {"id": name, "caption": caption, "uri": uri if caption["made"] else ""}


def _table(folder: Path, name: str, condensed: pd.DataFrame) -> dict[str, Any]:
    caption = read_json(folder / f"{name}.json")
    part = {"id": name, "caption": caption, "columns": [], "rows": []}
    if not caption["made"]:
        return part
    table = condensed if name == "table5" else read_table(folder / f"{name}.csv")
    table = table[[column for column in TABLE_COLUMNS.get(name, table.columns) if column in table]]
    part["columns"] = [str(column).replace("_", " ") for column in table.columns]
    part["rows"] = [[_cell(value) for value in row] for row in table.astype(object).to_numpy()]
    return part


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return count(value) if value.is_integer() else num(value)
    return count(value) if isinstance(value, int) else str(value)


def captions_text(folder: str | Path, names: Sequence[str] = (*FIGURES, *TABLES)) -> str:
    """All captions as text, one paragraph each."""
    return "\n\n".join(caption_text(read_json(Path(folder, f"{name}.json"))) for name in names) + "\n"


def readme_block(folder: str | Path) -> str:
    """The part that the documentation quotes: Table 5, the claims and three pictures; '' if no page was made."""
    folder = Path(folder)
    if not (folder / "comparison.csv").is_file() or (folder / "comparison.csv").stat().st_size < 2:
        return ""
    # Read as text, so that 0.950 stays 0.950.
    table, claims = (
        pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False) for name in ("comparison", "claims")
    )
    about = read_json(folder / "about.json")
    seeds = (
        f"{table['Seeds'].min()}"
        if table["Seeds"].nunique() == 1
        else f"{table['Seeds'].min()} to {table['Seeds'].max()}"
    )
    shown = claims[["claim", "published", "experiment", "protocol", "ours", "reproduced", "why"]]
    lines = [
        f"Simulated telescopes; means over {seeds} seeds; commit {about['commit']}, a machine of {about['cpus']} CPU cores.",
        "",
    ]
    lines += [*_markdown(table.drop(columns="Seeds")), "", *_markdown(shown), ""]
    lines += [f"![{TITLES[name]}](../paper/{name}.png)" for name in ("fig10", "fig11", "fig12")]
    return "\n".join(lines) + "\n"


def _markdown(table: pd.DataFrame) -> list[str]:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return ["| " + " | ".join(row) + " |" for row in rows]


def quote(folder: str | Path, page: str | Path) -> None:
    """Replace the block of a page between ``<!-- paper from here -->`` and ``<!-- to here -->``."""
    before, _, rest = Path(page).read_text(encoding="utf-8").partition(MARK)
    after = rest.partition("<!-- to here -->")[2]
    text = f"{before}{MARK}\n{readme_block(folder)}<!-- to here -->{after}"
    Path(page).write_text(text, encoding="utf-8")


def draw_unfinished(config: Sequence[str], *, root: str | Path = "results") -> Path:
    """Draw all parts of the paper for which an unfinished run has data, into ``unfinished/paper``.

    Parameters
    ----------
    config : sequence of path-like
        Configuration files; later files override earlier ones and the defaults.
    root : path-like
        Folder of the results.

    Returns
    -------
    pathlib.Path
        The HTML page.
    """
    plan, folder = plan_paper(Run.from_files(config)), Path(root, "unfinished", "paper")
    for name in FIGURES:
        table, caption = folder / f"{name}.csv", folder / f"{name}.json"
        data_files(figure=name, plan=plan, table=table, caption=caption, root=root)
        pictures = [folder / f"{name}.{end}" for end in ("png", "pdf")]
        figures_files(figure=name, table=table, caption=caption, pictures=pictures)
    for name in TABLES:
        tables_files(
            name=name,
            plan=plan,
            table=folder / f"{name}.csv",
            tex=folder / f"{name}.tex",
            caption=folder / f"{name}.json",
            root=root,
        )
    page = folder / "index.html"
    paper_files(
        plan=plan,
        page=page,
        claims=folder / "claims.csv",
        captions=folder / "captions.txt",
        about=folder / "about.json",
        comparison=folder / "comparison.csv",
        root=root,
    )
    return page


if __name__ == "__main__":
    import sys

    if sys.argv[1:] == ["--quote"]:
        quote("results/paper", PAGE)
    else:
        print(f"The paper so far: {draw_unfinished(sys.argv[1:] or ['config/paper.yaml'])}")
