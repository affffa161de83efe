"""From the page of a night to labels given in a browser, the label sheet, and a training on it."""

import pytest

from otrain_core.arrays import read_arrays
from otrain_core.cli.main import main
from otrain_core.plan.sheets import read_labels
from tests.e2e.test_label_page import person, press, said, serving, wait_for
from tests.unit.night.test_night import a_night, images, run
from tests.unit.synthetic_night import NEW, write_pair

NIGHT = "2024-02-29"


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Folder of a night of two images, and its model."""
    folder = tmp_path_factory.mktemp("night")
    pair = write_pair(folder)
    assert run(a_night(images(folder / "images", pair[0], 2), folder / "nights", pair))["done"] == 2
    return folder / "nights" / NIGHT, pair[2]


def test_answers_in_the_browser_reach_a_training(night, browser, tmp_path, monkeypatch, capsys):
    folder, model = night
    context = browser.new_context()
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    assert page.locator(".card").count() >= len(NEW)
    commands = page.locator("pre", has_text="otrain label serve").inner_text().splitlines()
    assert [command.split()[:3] for command in commands[:2]] == [
        ["otrain", "label", "serve"],
        ["otrain", "label", "sheet"],
    ]
    assert commands[0] == "otrain label serve cutouts -m MODEL"
    context.close()
    monkeypatch.chdir(folder)  # as the page says
    database, sheet = tmp_path / "labels.sqlite", tmp_path / "labels.csv"
    with (
        serving("results", database, more=["cutouts", "-m", str(model)]) as (url, _),
        person(browser, url, "anna") as page,
    ):
        wait_for(lambda: page.evaluate("ahead.length"))
        for number in range(12):
            if not page.evaluate("ahead.length"):
                break
            name = press(page, "tf"[number % 2])
            wait_for(lambda name=name: name in said(database))
    given = said(database)
    assert main(["label", "sheet", "--database", str(database), "-o", str(sheet)]) == 0
    assert {row["candid"]: row["label"] for row in read_labels(sheet)} == given
    assert set(given.values()) == {"True", "False"}
    trained = tmp_path / "mine"
    assert main(["train", "cutouts", "--labels", str(sheet), "--epochs", "1", "-o", str(trained)]) == 0
    cube = read_arrays(trained / "cube.npz")
    assert {str(name): str(bool(label)) for name, label in zip(cube["candids"], cube["labels"], strict=True)} == given
    # Two images are too few for train, validation and test: the training says so and fine-tunes the shipped model with all labels.
    assert "no test set: " in capsys.readouterr().out
    assert (trained / "model.onnx").is_file() and not (trained / "metrics.json").exists()
