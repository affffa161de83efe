"""Verbs that need no file of their own."""

from __future__ import annotations

import json

import numpy as np

from otrain_core.cli.main import main


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
