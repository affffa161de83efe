"""The page of the reproduction, and the paper drawn from an unfinished run."""

import re
import shutil
import subprocess

import pandas as pd
import pytest
import yaml

from otrain_core.io import read_json, read_table
from otrain_core.paper.paper import MARK, PAGE, captions_text, draw_unfinished, quote, readme_block
from otrain_core.paper.plan import FIGURES, TABLES
from tests.unit.report.test_report import Page
from tests.unit.synthetic_paper import ROOT, make_plan, paper_values, write_paper


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Page of results of which the studies and one cube are missing."""
    folder = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        plan = make_plan(patch)
        values = paper_values()
        (folder / "mine.yaml").write_text(yaml.safe_dump({"run": values["run"], "studies": values["studies"]}))
        write_paper(folder / "results", plan | {"cubes": plan["cubes"][:4], "sweeps": {}})
        page = draw_unfinished([ROOT / "config/paper.yaml", folder / "mine.yaml"], root=folder / "results")
    return page


def test_all_files_are_there(made):
    names = {path.name for path in made.parent.iterdir()}
    assert names >= {f"{figure}.{end}" for figure in FIGURES for end in ("csv", "json", "png", "pdf")}
    assert names >= {f"{table}.{end}" for table in TABLES for end in ("csv", "json", "tex")}
    assert names >= {"index.html", "claims.csv", "captions.txt", "about.json"}
    assert read_json(made.parent / "about.json")["seeds"] == [1, 2]


def test_the_page_is_whole_and_needs_no_network(made):
    text = made.read_text()
    page = Page(text)
    assert all(uri.startswith("data:image/png;base64,") for uri in page.images)
    assert set(page.links) - {link for link in page.links if link.startswith("#")} == {
        "https://doi.org/10.1051/0004-6361/202142952"
    }
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert set(page.ids) >= {*FIGURES, *TABLES, "claims"}
    assert not re.search(r"<(script|link)|@import|url\(", text)


def test_what_is_not_there_is_named_and_has_no_blank_panel(made):
    page = Page(made.read_text())
    missing = [name for name in FIGURES if not read_json(made.parent / f"{name}.json")["made"]]
    # Fig. 4 too: the images of the plan have other names than the made-up ones. Fig. 12 has the size that is trained anyway.
    assert {"fig11", "fig08", "figA4"} <= set(missing) <= {"fig04", "fig11", "fig08", "figA4"}
    assert len(page.images) == len(FIGURES) - len(missing)
    assert "Not made, because the run is not finished" in page.text
    assert "trainings of the study data-size is done yet" in page.text


def test_claims_of_half_a_run_are_open(made):
    claims = read_table(made.parent / "claims.csv")
    assert set(claims["reproduced"]) == {"unknown"} and len(claims) == 2 * (2 * 4 + 3)
    over_cubes = claims[~claims["claim"].str.contains("gap|collapse")]
    assert len(over_cubes) == 2 * 2 * 4 and over_cubes["why"].str.contains("4 of 5 cubes done").all()


def test_captions_are_kept_as_text(made):
    text = (made.parent / "captions.txt").read_text()
    assert text == captions_text(made.parent)
    assert text.count("\n\n") == len(FIGURES) + len(TABLES) - 1


def test_the_documentation_quotes_the_files(root):
    """No number of the paper in the documentation is typed by hand: `python -m otrain_core.paper.paper --quote`."""
    text = (root / PAGE).read_text(encoding="utf-8")
    assert text.partition(MARK)[2].partition("<!-- to here -->")[0] == "\n" + readme_block(root / "results/paper")


def test_quoted_numbers_are_those_of_the_tables(made, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{MARK}\nwhat was here\n<!-- to here -->\nafter\n")
    quote(made.parent, readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "what was here" not in text
    table = pd.read_csv(made.parent / "comparison.csv", dtype=str)
    assert len(table) == 4 * 2 * 2
    for row in table.itertuples():
        assert f"| {row.Cube} | {row.Network} |" in text and row.MCC in text
    quote(tmp_path, readme)  # nothing is there
    assert readme.read_text() == f"before\n{MARK}\n<!-- to here -->\nafter\n"


def test_the_page_opens_in_a_browser(made, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here: the page of the paper was not opened")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    picture = tmp_path / "page.png"
    command += ["--window-size=1200,3000", f"--screenshot={picture}", made.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120)
    from matplotlib.image import imread

    grey = imread(picture)[..., :3].mean(axis=-1)
    assert grey.shape == (3000, 1200)
    filled = (grey.reshape(10, 300, 1200) < 0.8).mean(axis=(1, 2))
    assert (filled > 0.005).all(), filled  # no part of the first screens is blank
