"""otrain label: the sheet, and what the page refuses."""

from __future__ import annotations

import json

import pytest

from otrain_core.cli.main import main
from tests.unit.cli.test_classify import _rows


def test_label_sheet(tmp_path, capsys):
    from otrain_core.labelling.store import LabelStore

    database = str(tmp_path / "labels.sqlite")
    assert main(["label", "sheet", "--database", database]) == 1
    assert "otrain label serve" in capsys.readouterr().err
    one = {
        "id": "c",
        "telescope": "T",
        "pipeline": "p",
        "image": "a",
        "candid": "c",
        "x": 1.0,
        "y": 2.0,
        "before": "True",
    }
    LabelStore(database).add(one, label="False", who="anna", key="key-00001")
    assert main(["label", "sheet", "--database", database, "-o", str(tmp_path / "labels.csv")]) == 0
    assert "1 answers by 1 people on 1 candidates" in capsys.readouterr().out
    (row,) = _rows(tmp_path / "labels.csv")
    assert (row["candid"], row["label"], row["who"]) == ("c", "False", "anna")
    assert main(["label", "sheet", "--database", database, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["label"] == "False"
    assert main(["label", "sheet", "--database", database]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("telescope,pipeline,image,candid,x,y,label")


def test_label_serve_refuses(tmp_path, capsys):
    assert main(["label", "serve", "--results", str(tmp_path)]) == 1
    assert "no cube" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["label", "serve", "--most", "0"])
    assert "a whole number from 1" in capsys.readouterr().err
