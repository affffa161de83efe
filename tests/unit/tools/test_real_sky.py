"""Scores of models on sets of the real sky."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.arrays import write_arrays
from otrain_core.evaluation.cuts import FixedCuts
from tests.unit.synthetic_cube import make_cube
from tests.unit.tiny_onnx import write_tiny
from tools import real_sky


@pytest.fixture
def cube():
    """200 candidates of 20 images with all channels; the logit of a score is the middle pixel, 3 of a True, -3 of a False."""
    found = make_cube(200)
    rng = np.random.default_rng(2)
    n = len(found["labels"])
    planes = np.full((n, 32, 32, 5), np.nan, np.float32)
    planes[..., :3] = rng.normal(0, 0.1, (n, 32, 32, 3))
    planes[:, 16, 16, 0] = np.where(found["labels"] == 1, 3, -3)
    found["kinds"] = np.where(found["labels"] == 1, np.where(np.arange(n) < 20, "random", "removed"), "")
    found |= {"cube": planes, "channels": np.array(real_sky.CHANNELS), "signs": np.where(np.arange(n) > 190, -1, 1)}
    found["labels"] = np.where(found["signs"] < 0, 0, found["labels"]).astype(np.uint8)
    found["kinds"] = np.where(found["signs"] < 0, "", found["kinds"])
    return found | {"units": found["images"], "convolved": np.full(n, "science")}


def test_a_table_of_two_models(cube, tmp_path, monkeypatch):
    """A network that reads the difference alone gives one row; injected sources and the other sign do not count."""
    write_tiny(tmp_path / "tiny.onnx")
    wide = write_tiny(tmp_path / "wide.onnx", channels=("difference", "science", "psf"))
    folder = tmp_path / "sets/ztf"
    folder.mkdir(parents=True)
    write_arrays(folder / "cube.npz", cube)
    labels = tmp_path / "labels.csv"
    bogus = np.flatnonzero((cube["labels"] == 0) & (cube["signs"] > 0))[:2]
    lines = [
        f"ztf,{cube['images'][k]},{cube['candids'][k]},{answer},me"
        for k, answer in zip(bogus, ("True", "False"), strict=True)
    ]
    labels.write_text("\n".join(["telescope,image,candid,label,who", *lines]) + "\n")
    table = real_sky.main(
        {"tiny": tmp_path / "tiny.onnx", "wide": wide},
        sets=["ztf"],
        folder=tmp_path / "sets",
        output=tmp_path / "out",
        results=tmp_path,
        labels=labels,
    )
    assert table[["model", "inputs"]].values.tolist() == [
        ["tiny", "difference"],
        ["wide", "difference science"],
        ["wide", "difference"],
    ]
    counted = (cube["kinds"] == "removed").sum(), ((cube["labels"] == 0) & (cube["signs"] > 0)).sum() - 1
    row = table.iloc[0]
    assert (row.n_real, row.n_bogus, row.n_left_out) == (*counted, 1)
    assert (row.auc, row.recall, row.fpr, row.purity_1pct) == (1, 1, 0, 1)
    # No false alarm of n: Clopper and Pearson leave 1 - 0.025 ** (1 / n) open.
    assert row.fpr_high == pytest.approx(1 - 0.025 ** (1 / row.n_bogus))
    assert row.purity_1pct_low == pytest.approx(0.01 * row.recall_low / (0.01 * row.recall_low + 0.99 * row.fpr_high))
    # The calibration of the file has slope 2: P = sigmoid(6), moved to the prior of the set; all of a class alike.
    prior = row.n_real / (row.n_real + row.n_bogus)
    wrong = [1 / (1 + np.exp(6 + np.log(prior / (1 - prior)))), 1 / (1 + np.exp(6 - np.log(prior / (1 - prior))))]
    assert row.ece == pytest.approx(prior * wrong[0] + (1 - prior) * wrong[1], rel=1e-3)
    assert 0 < row.ece_50_labels < 0.05 and row.ece_50_labels_low <= row.ece_50_labels <= row.ece_50_labels_high
    parts = pd.read_csv(tmp_path / "out/causes.csv").query("model == 'tiny'").set_index(["by", "value"])
    assert parts.loc[("kind", "random"), "n_real"] == (cube["kinds"] == "random").sum()
    assert parts.loc[("sign", "-1"), "n_bogus"] == 9 and parts.loc[("convolved", "science"), "auc"] == 1
    assert (tmp_path / "out/ztf.png").stat().st_size > 2000
    assert "demo otrain2" in (tmp_path / "out/about.json").read_text()


def test_cuts_need_what_they_cut_on(cube):
    cuts = FixedCuts(snr_min=5.0, fwhm_low=0.0, fwhm_high=9.0)
    stays = np.ones(len(cube["labels"]), bool)
    rows, _ = real_sky.score_set("one", cube, {}, cuts, stays=stays)
    assert rows[0]["recall"] == 1 and rows[0]["fpr"] == 1 and np.isnan(rows[0]["auc"])
    rows, _ = real_sky.score_set("one", cube | {"snr": np.full(200, np.nan)}, {}, cuts, stays=stays)
    assert rows == [
        {"set": "one", "inputs": "S/N FWHM shape", "model": "fixed cuts", "note": "S/N or FWHM is not known"}
    ]


def test_another_share_of_real_ones():
    assert real_sky.with_prior(np.array([0.5, 0.9]), 0.01) == pytest.approx([0.01, 0.09 / 1.08])
    assert real_sky.with_prior(np.array([0.3]), 0.5) == pytest.approx([0.3])


def test_own_labels_mend_the_calibration():
    """Log odds three times too large: 50 labels bring the error down; of too few images there is none."""
    rng = np.random.default_rng(3)
    truth = rng.uniform(-2, 2, 2000)
    labels = (rng.random(2000) < 1 / (1 + np.exp(-truth))).astype(int)
    sure = 1 / (1 + np.exp(-3 * truth))
    units = np.repeat(np.arange(20), 100).astype(str)
    middle, (low, high) = real_sky.own_calibration(labels, sure, units, rng=rng)
    assert real_sky.ece(labels, sure) > 0.16 and middle < 0.13 and low < middle < high
    assert np.isnan(real_sky.own_calibration(labels, sure, np.full(2000, "one"), rng=rng)[0])
