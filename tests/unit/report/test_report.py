"""The report page: what it says, from complete and from broken results."""

import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from otrain_core import io
from otrain_core.evaluation.comparison import compare_pipelines, compare_telescopes, count_artefacts
from otrain_core.evaluation.summary import summary_row
from otrain_core.plan.config import Config
from otrain_core.report.report import build_report, report_files
from otrain_core.results import TABLES
from tests.unit.synthetic_results import summary_tables, write_results

CONFIG = Config()
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Text, links, ids and pictures of a page; complains about tags that do not nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.links += [attrs["href"]] if tag == "a" else []
        self.images += [attrs["src"]] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture
def quick(monkeypatch):
    """Figures are made but not drawn, which is what takes seconds."""
    monkeypatch.setattr("otrain_core.report.pictures.embed", lambda figure: "data:image/png;base64,")


def write_page(root, made, *, source="simulated", cubes=("tiny/builtin",), mlflow=None):
    tables = {name: root / f"{name}.csv" for name in TABLES}
    summary_tables(root, made, cubes=cubes)
    report_files(
        tables=tables,
        page=root / "report.html",
        cubes=list(cubes),
        runs=made["runs"],
        config=CONFIG,
        rows={"tiny": {"source": source, "warnings": ["Telescope tiny: a warning of the sheet."]}},
        mlflow=mlflow,
        root=root,
    )
    text = (root / "report.html").read_text()
    return text, Page(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    made = write_results(root, protocols=("by-image", "random"), experiments=("otrain2",), shipped=2.0)
    champion = {"model": "otrain-tiny", "version": 7, "pipeline": "builtin", "experiment": "otrain2", "seed": "1"}
    io.write_json(root / "mlflow.json", {"champions": {"tiny": champion}})
    return root, made


@pytest.fixture(scope="module")
def page(run):
    return write_page(*run, mlflow=run[0] / "mlflow.json")


def test_the_page_needs_nothing_but_itself(page):
    text, parsed = page
    assert parsed.images
    assert all(source.startswith("data:image/png;base64,") for source in parsed.images)
    assert all(link.startswith("#") for link in parsed.links)
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert not re.search(r"https?://|<script|@import|url\(", text)


def test_it_shows_every_part(page):
    _, parsed = page
    for words in (
        *("How far to trust it", "What True and False look like", "False by cause", "Injected and recovered"),
        *(
            "Quality of the images",
            "By magnitude, its error and S/N",
            "By sign",
            "Failures",
            "Median CPU",
            "Configuration",
        ),
    ):
        assert words in parsed.text, words
    # gallery, two triplets, completeness, quality; panels, confusion, calibration of two trainings
    assert len(parsed.images) == 5 + 2 * 3


def test_what_the_image_sheet_warns_of_is_told(page):
    assert "Telescope tiny: a warning of the sheet." in page[1].text


def test_numbers_stand_with_interval_protocol_and_data(run, page):
    root, made = run
    _, parsed = page
    headline = io.read_json(f"{made['runs'][0]}/metrics.json")["headline"]
    mcc = f"MCC {headline['mcc']:.3f} [{headline['mcc_low']:.3f}, {headline['mcc_high']:.3f}]"
    assert mcc in parsed.text
    assert f"Scored on {headline['n_images']} images that it never saw" in parsed.text
    assert f"Fixed cuts on S/N, FWHM and shape reach MCC {headline['baseline_mcc']:.3f}" in parsed.text
    assert (
        f"The shipped model, which saw no image of this telescope, reaches MCC {headline['shipped_mcc']:.3f}"
        in parsed.text
    )
    assert "its numbers are too optimistic" in parsed.text
    assert "threshold set on the scored cutouts" in parsed.text
    assert "otrain-tiny, version 7, alias champion" in parsed.text


def test_it_says_why_an_image_failed(page):
    _, parsed = page
    row = parsed.text[parsed.text.index("What happened") :]
    assert re.search(r"I03 prepare SATURATE 61 % of the pixels are saturated", row)
    assert "1 of 8 images failed" in parsed.text


def test_what_nothing_foresaw_has_its_traceback(quick, run, tmp_path):
    shutil.copytree(run[0], tmp_path / "results")
    path = tmp_path / "results/failures/tiny/builtin/I03/prepare.json"
    io.write_json(path, io.read_json(path) | {"traceback": "Traceback <module>\nZeroDivisionError: <b>0</b>"})
    text, parsed = write_page(tmp_path / "results", run[1])
    assert "Traceback <module> ZeroDivisionError: <b>0</b>" in parsed.text
    assert "&lt;b&gt;0" in text and "<b>0</b>" not in text


@pytest.mark.parametrize("source", ["simulated", "images"])
def test_simulated_data_is_called_simulated(quick, run, source):
    root, made = run
    _, parsed = write_page(root, made, source=source)
    assert ("simulated" in parsed.text.split("Configuration")[0]) == (source == "simulated")
    assert ("real images" in parsed.text) == (source == "images")


@pytest.mark.parametrize(
    "removed",
    [
        "cube.npz",
        "cube.json",
        "split.csv",
        "images",
        "otrain2/seed1",
        "otrain2/seed1/scores.csv",
        "otrain2/seed1/curves.csv",
    ],
)
def test_the_page_is_built_from_what_exists(quick, run, tmp_path, removed):
    root, made = run
    shutil.copytree(root, tmp_path / "results")
    target = tmp_path / "results/tiny/builtin" / removed
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    moved = {**made, "runs": [folder.replace(str(root), str(tmp_path / "results")) for folder in made["runs"]]}
    _, parsed = write_page(tmp_path / "results", moved)
    assert "Failures" in parsed.text


def test_nothing_at_all_still_gives_a_page(quick, tmp_path):
    made = {"images": ["A"], "runs": [str(tmp_path / "tiny/builtin/otrain2/seed1")]}
    _, parsed = write_page(tmp_path, made)
    assert "The cube was not built" in parsed.text
    assert "not trained" in parsed.text
    assert "No training of this cube was evaluated" in parsed.text


def test_a_message_cannot_inject_markup(quick, run, tmp_path):
    root, made = run
    quality = io.read_table(root / "quality.csv")
    quality.loc[quality["status"] == "failed", "reason"] = "psf: key: <script>alert(1)</script>"
    text = build_report(
        summary=io.read_table(root / "summary.csv"),
        quality=quality,
        comparison={
            "pipelines": compare_pipelines(quality),
            "artefacts": count_artefacts(quality, {}),
            "telescopes": compare_telescopes(quality),
            "experiments": pd.DataFrame(),
            "mcnemar": pd.DataFrame(),
        },
        cubes={"tiny/builtin": tmp_path},
        runs=[],
        config=CONFIG,
        telescopes={},
        root=tmp_path,
    )
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_pipelines_artefacts_and_telescopes_stand_side_by_side(page):
    parsed = page[1]
    assert "compared" in parsed.ids
    for words in ("Pipelines on the same images", "Causes of the False, per image", "Telescopes", "alard-lupton"):
        assert words in parsed.text
    assert re.search(r"tiny/builtin alard-lupton 7 1 \d+ / 840", re.sub(r"\u202f", "", parsed.text))  # 7 x 120 injected
    assert "cosmic 15.0" in parsed.text and "dipole 20.0" in parsed.text


def test_experiments_stand_side_by_side(page):
    parsed = page[1]
    assert "#experiments" in parsed.links and "#transfer" not in parsed.links  # no study was run
    for words in ("images never seen", "random split", "Effect of each step of the protocol on MCC", "Costs"):
        assert words in parsed.text, words


def test_one_experiment_alone_makes_no_panel(quick, tmp_path):
    made = write_results(tmp_path, experiments=("otrain2",))
    _, parsed = write_page(tmp_path, made)
    assert "experiments" not in parsed.ids
    assert "Suspected labels" not in parsed.text and "Between telescopes" not in parsed.text


def test_studies_are_shown_where_they_were_run(quick, run, tmp_path):
    root, made = run
    shutil.copytree(root, tmp_path / "results")
    folder = tmp_path / "results/tiny/builtin/otrain2"
    row = {"source": "tiny/builtin", "target": "tiny/builtin", "experiment": "otrain2", "seed": 1, "mcc": 0.912}
    io.write_table(folder / "seed1/transfer.csv", pd.DataFrame([row | {"relation": "own", "mcc_validation": 0.913}]))
    tuned = row | {"n_labels": 50, "mcc": 0.777, "mcc_low": 0.7, "mcc_high": 0.8}
    io.write_table(folder / "seed1/finetune.csv", pd.DataFrame([tuned]))
    counts = {"n": 90, "n_suspected": 7, "n_suspected_false": 4, "n_suspected_true": 3}
    io.write_json(folder / "label_noise/label_noise.json", counts)
    tried = {"n": 60, "n_neighbours": 12, "decisions_changed": 0.25}
    energy = {"n": 60, "energy_within_fwhm": 0.031, "energy_of_flat_map": 0.017}
    io.write_json(folder / "seed1/explain.json", {"all": energy, "neighbours": {"all": tried}})
    moved = {**made, "runs": [path.replace(str(root), str(tmp_path / "results")) for path in made["runs"]]}
    _, parsed = write_page(tmp_path / "results", moved)
    assert "#transfer" in parsed.links
    for words in ("0.912", "0.777 [0.700, 0.800]", "7 of 90 labels", "25.0 % of them", "3.1 % of the map"):
        assert words in parsed.text, words


def test_it_says_how_the_best_was_chosen(quick, tmp_path):
    made = write_results(tmp_path)
    _, parsed = write_page(tmp_path, made)
    rows = [summary_row(folder) for folder in made["runs"]]
    best = max(rows, key=lambda row: row["mcc_validation"])
    assert f"Best: {best['experiment']}, seed 1" in parsed.text
    assert f"Chosen by MCC on validation ({best['mcc_validation']:.3f}), not on test, among 2 trainings." in parsed.text


def test_the_gap_to_real_stars_is_told(page):
    assert re.search(r"real stars in the test images, none of which were used in training", page[1].text)


def test_a_model_that_fails_the_gate_is_told_so(quick, tmp_path):
    made = write_results(tmp_path, quality=0.5, experiments=("otrain2",))
    _, parsed = write_page(tmp_path, made)
    assert "does not pass the gate" in parsed.text
    assert "alias champion" not in parsed.text
