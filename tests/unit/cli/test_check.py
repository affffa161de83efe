"""otrain check: whether paths are fit for use."""

from __future__ import annotations

import json

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.arrays import write_arrays
from otrain_core.cli.main import main
from tests.unit.synthetic_cube import make_cube
from tests.unit.synthetic_difference import SEEING, grid_of_sources, tangential


def test_check(tmp_path, cube, capsys):
    assert main(["check", cube]) == 0
    assert "fit for use" in capsys.readouterr().out
    bad = make_cube(60)
    bad["labels"][:] = 1
    bad["images"][:] = "one"
    write_arrays(tmp_path / "bad.npz", bad)
    fits.PrimaryHDU(np.full((50, 50), np.nan, np.float32)).writeto(tmp_path / "nan.fits")
    paths = [str(tmp_path / name) for name in ("bad.npz", "nan.fits", "nowhere.fits")]
    assert main(["check", *paths, "--gain", "1", "--pixel-scale", "1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [item["fit"] for item in found] == [False] * 3
    assert "no False cutouts" in found[0]["problems"][0] and "1 images" in found[0]["problems"][1]
    assert "all pixels are NaN" in found[1]["problems"][0] and "no such file" in found[2]["problems"][0]


def test_check_an_image(tmp_path, capsys):
    (diff, _, _), _, _ = grid_of_sources(200)
    fits.PrimaryHDU(diff + 100, tangential().to_header()).writeto(tmp_path / "image.fits")
    assert main(["check", str(tmp_path / "image.fits"), "--gain", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]
    assert found["seeing_px"] == pytest.approx(SEEING, rel=0.05) and found["n_stars"] > 20


def test_check_names_copied_cutouts(tmp_path, capsys):
    noise = np.random.default_rng(0).normal(0, 5, (20, 16, 16)).astype(np.float32)
    for k in range(20):
        for name in ("a", "b", "c"):  # the same cutouts under three images
            header = fits.Header({"CANDID": f"{name}_{k}", "EDGE": "False", "IMAGE": f"{name}.fits"})
            path = tmp_path / "cutouts" / str(k < 10) / f"{name}{k}.fits"
            path.parent.mkdir(parents=True, exist_ok=True)
            fits.PrimaryHDU(noise[k], header).writeto(path)
    copied = make_cube(60)
    copied["cube"][50:], copied["labels"][50:] = copied["cube"][:10], 1 - copied["labels"][:10]
    write_arrays(tmp_path / "cube.npz", copied)
    assert main(["check", str(tmp_path / "cutouts"), str(tmp_path / "cube.npz"), "--json"]) == 1
    folder, cube = json.loads(capsys.readouterr().out)
    assert "60 of 60 cutouts have the same pixels as another one" in folder["problems"][-1]
    assert "20 of 60 cutouts have the same pixels as another one, 20 of them with both labels" in cube["problems"][-1]
