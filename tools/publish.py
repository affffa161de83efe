"""Copy the small tables of a run into the repository and quote them in the documentation: ``python -m tools.publish RESULTS FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from otrain_core.errors import OtrainError
from otrain_core.evaluation.closing import closing_table
from otrain_core.io import read_table
from otrain_core.results import TABLES, read_record


def published_table(folder: str | Path) -> str:
    """The closing table of a published run, as quoted in the README or the documentation."""
    tables = [read_table(Path(folder, f"{name}.csv")) for name in ("summary", "quality")]
    return closing_table(*tables)


def quoting(root: str | Path) -> list[Path]:
    """Paths of the README and of the pages of the documentation."""
    return [Path(root, "README.md"), *sorted(Path(root, "docs").rglob("*.md"))]


def publish(root: str | Path, folder: str | Path, page: str | Path) -> None:
    """Copy the tables of a run into the repository and quote the closing table in a page.

    The block of the page between ``<!-- NAME from here -->`` and ``<!-- to here -->`` is
    replaced, where NAME is the name of `folder`.
    """
    from otrain_core.io import write_json, write_table
    from otrain_core.paper.estimate import publish_costs

    for name in TABLES:
        write_table(Path(folder, f"{name}.csv"), read_table(Path(root, f"{name}.csv")))
    publish_costs(root, folder)
    trainings = sorted(Path(root).glob("*/*/*/seed*/train.json"))
    if not trainings:
        raise OtrainError(f"{root}: no training there (telescope/pipeline/experiment/seedN/train.json)")
    training = read_record(trainings[0])
    write_json(Path(folder, "about.json"), {key: training.get(key) for key in ("commit", "time", "cpus", "versions")})
    mark = f"<!-- {Path(folder).name} from here -->"
    before, _, rest = Path(page).read_text().partition(mark)
    after = rest.partition("<!-- to here -->")[2]
    Path(page).write_text(f"{before}{mark}\n```text\n{published_table(folder)}\n```\n<!-- to here -->{after}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tools.publish RESULTS FOLDER, with FOLDER in results/published")
    name = Path(sys.argv[2]).name
    page = next((page for page in quoting(".") if f"<!-- {name} from here -->" in page.read_text()), None)
    if page is None:
        sys.exit(f"no page quotes {name}: add the lines <!-- {name} from here --> and <!-- to here --> to a page")
    publish(sys.argv[1], sys.argv[2], page)
