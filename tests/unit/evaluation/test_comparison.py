"""Pipelines, artefacts and telescopes side by side."""

import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.evaluation.comparison import compare_pipelines, compare_telescopes, count_artefacts
from otrain_core.evaluation.summary import QUALITY_COLUMNS, build_quality


def row(telescope, pipeline, image, **values):
    base = {"telescope": telescope, "pipeline": pipeline, "image": image, "status": "ok", "reason": ""}
    base |= {"n_injected": 100, "n_recovered": 80, "n_true": 70, "n_false": 50, "candidates": 140}
    base |= {"bright_injected": 60, "bright_recovered": 57, "noise_spread": 1.0, "flux_bias": 0.01}
    base |= {
        "completeness_50_mag": 18.9,
        "limit_5sigma_mag": 19.0,
        "zero_point_source": "header",
        "seeing_arcsec": 3.0,
        "pixel_scale": 1.5,
    }
    base |= {"field_sq_deg": 0.5, "subtraction": "alard-lupton", "psf_cpu_seconds": 2.0, "subtract_cpu_seconds": 3.0}
    return base | {"psf_peak_mb": 300.0, "subtract_peak_mb": 700.0} | values


@pytest.fixture
def quality():
    rows = [row("A", "one", "x"), row("A", "one", "y", n_false=70, flux_bias=0.03), row("A", "one", "z")]
    rows += [row("A", "two", "x", n_recovered=90, subtraction="zogy"), row("A", "two", "y", subtraction="zogy")]
    rows += [row("A", "two", "z", status="failed", reason="subtract: subtract: no kernel", subtraction="")]
    rows += [row("B", "one", "x", pixel_scale=3.0)]
    return build_quality(rows)


def test_pipelines_are_compared_on_the_images_that_all_of_them_did(quality):
    table = compare_pipelines(quality).set_index(["telescope", "pipeline"])
    one, two = table.loc[("A", "one")], table.loc[("A", "two")]
    assert one["images"] == two["images"] == 2  # z failed under two
    assert (one["images_failed"], two["images_failed"]) == (0, 1)
    assert one["found_share"] == pytest.approx(0.8) and two["found_share"] == pytest.approx(0.85)
    assert one["false_per_image"] == 60 and one["false_per_sq_deg"] == 120
    assert one["flux_bias"] == pytest.approx(0.02)
    assert one["completeness_50_minus_limit"] == pytest.approx(-0.1)
    assert one["cpu_seconds_per_image"] == 5 and one["peak_mb"] == 700
    assert two["subtraction"] == "zogy"
    assert table.loc[("B", "one")]["bright_share"] == pytest.approx(0.95)


def test_a_pipeline_without_any_good_image_keeps_its_row():
    bad = row("A", "one", "x", status="failed", reason="psf: psf: 3 usable stars", n_injected=np.nan)
    table = compare_pipelines(build_quality([bad]))
    assert table.loc[0, "images"] == 0 and table.loc[0, "images_failed"] == 1
    assert np.isnan(table.loc[0, "found_share"]) and np.isnan(table.loc[0, "peak_mb"])
    assert len(compare_telescopes(build_quality([bad]))) == 1


def test_artefacts_add_up_over_the_good_images(quality, tmp_path):
    for pipeline in ("one", "two"):
        for image in "xyz":
            record = {"artefacts": {"cosmic": 3, "": 1}}
            io.write_json(tmp_path / "A" / pipeline / "images" / image / "crossmatch.json", record)
    table = count_artefacts(quality, {f"A/{name}": tmp_path / "A" / name for name in ("one", "two")})
    two = table[table["pipeline"] == "two"].set_index("artefact")
    assert list(two["n_false"]) == [6, 2]  # of x and y alone
    assert two.loc["cosmic", "per_image"] == 3 and two.loc["unknown", "share"] == pytest.approx(0.25)


def test_telescopes(quality):
    table = compare_telescopes(quality).set_index(["telescope", "pipeline"])
    assert table.loc[("A", "one"), "seeing_px"] == 2 and table.loc[("B", "one"), "seeing_px"] == 1
    assert table.loc[("A", "one"), "candidates_per_sq_deg"] == pytest.approx(280)
    assert table.loc[("A", "two"), "n_true"] == 140


def test_no_images_no_rows():
    nothing = pd.DataFrame(columns=list(QUALITY_COLUMNS))
    assert compare_pipelines(nothing).empty and compare_telescopes(nothing).empty
    assert count_artefacts(nothing, {"A/one": "nowhere"}).empty
