"""Verbs that need no file of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from otrain_core.cli.main import main
from otrain_core.cli.parser import build_parser
from otrain_core.cli.verbs import _experiment
from otrain_core.errors import OtrainError


def test_export_and_convert_are_inverse(tmp_path, cube, capsys):
    assert main(["export", cube, "-o", str(tmp_path / "folders")]) == 0
    again = tmp_path / "again.npz"
    options = ["--channels", "all", "--size", "21", "--telescope", "tiny", "--json"]
    assert main(["convert", str(tmp_path / "folders"), "-o", str(again), *options]) == 0
    record = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert (record["n_true"], record["n_false"], record["size"]) == (30, 30, 21)
    with np.load(again) as arrays:
        assert arrays["channels"].tolist() == ["difference", "science", "reference", "mask"]
        assert str(arrays["telescope"]) == "tiny"


def test_the_list_of_models_begins_with_the_shipped_one(tmp_path, shipped_model, capsys):
    arguments = ["models", "list", "--results", str(tmp_path / "none")]
    assert main([*arguments, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["model"] == "universal" and row["card"]["scores"][0]["auc"] == 0.98
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "universal (shipped; the default of -m)" and "3 telescopes" in lines[1]
    assert lines[-1] == f"no registered models in {tmp_path / 'none'}"


def test_without_a_shipped_model_a_missing_store_is_an_error(tmp_path, shipped_folder, capsys):
    assert main(["models", "list", "--results", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


def test_a_training_from_the_shipped_model():
    def experiment(*options):
        return _experiment(build_parser().parse_args(["train", "cube.npz", "-o", "mine", *options]))

    assert experiment("--from", "universal").start == "universal"
    assert experiment("--from", "universal").threshold == "even" and experiment().start is None
    named = experiment("--from", "universal", "--experiment", "otrain2-difference")
    assert (named.start, named.threshold) == ("universal", "even")
    with pytest.raises(OtrainError, match="--inputs: not possible for a fine-tuned network"):
        experiment("--from", "universal", "--inputs", "difference")


@pytest.mark.parametrize("value", ["5", "nan"])
def test_a_gate_that_no_model_can_have_is_refused_with_its_key(tmp_path, value, capsys):
    assert main(["models", "import", "--results", str(tmp_path), "--min-mcc", value]) == 1
    error = capsys.readouterr().err
    assert error.startswith("otrain models: gate: min_mcc: ") and "unexpected" not in error
