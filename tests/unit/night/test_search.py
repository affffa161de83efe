"""Search of one image in one process: the same candidates and scores as from the steps of the DAG."""

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from otrain_core.arrays import read_stack
from otrain_core.candidates.cutouts import cutouts_files
from otrain_core.candidates.detect import detect_files
from otrain_core.classify import Classifier
from otrain_core.errors import ImageError
from otrain_core.images.frames import read_image, read_planes, write_planes
from otrain_core.images.prepare import prepare_files
from otrain_core.images.subtract import subtract_files
from otrain_core.images.wcs import celestial_wcs
from otrain_core.io import read_json, read_table, write_table
from otrain_core.night.search import COLUMNS, _check_filter, _unlabelled, _wcs_offset, search_image
from otrain_core.plan.pipelines import DetectOptions, Pipeline
from otrain_core.plan.recipe import Recipe
from otrain_core.plan.telescopes import Detector
from otrain_core.stars.psf import psf_files
from tests.unit.synthetic_difference import tangential
from tests.unit.synthetic_night import FADED, NEW, nearest


def recipe(**detect):
    return Recipe(Pipeline(detect=DetectOptions(**detect)), Detector(), telescope="T", name="builtin")


def test_new_sources_are_found_and_measured(night_pair, tmp_path):
    science, reference, model = night_pair
    kept = tmp_path / "difference.fits"
    found = search_image(
        science,
        reference=reference,
        classifier=Classifier.load(model),
        recipe=recipe(),
        image="n1",
        difference=kept,
    )
    assert list(found.table) == list(COLUMNS)
    assert len({len(values) for values in found.table.values()} | {len(found.stamps)}) == 1
    for x, y, flux in NEW:
        row, distance = nearest(found.table, (x, y))
        assert distance < 0.5 and found.table["sign"][row] == 1
        assert found.table["mag"][row] == pytest.approx(30 - 2.5 * np.log10(flux), abs=0.15)
    assert (np.diff(found.table["probability"]) <= 0).all()
    assert (found.table["sign"] == 1).all()
    assert found.record["n"] == len(found.stamps) and set(found.record["cpu_seconds"]) >= {
        "psf",
        "subtract",
        "classify",
    }
    assert read_planes(kept, image="n1")[0]["diff"].shape == (320, 360)


def test_a_source_that_faded_has_a_negative_sign_and_is_classified_flipped(night_pair):
    science, reference, model = night_pair
    found = search_image(
        science, reference=reference, classifier=Classifier.load(model), recipe=recipe(both_signs=True), image="n1"
    )
    row, distance = nearest(found.table, FADED[0])
    assert distance < 0.5 and found.table["sign"][row] == -1
    middle = found.stamps.shape[1] // 2
    assert found.stamps[row, middle, middle, 0] > 0


@pytest.mark.parametrize(("content", "reason"), [(b"SIMPLE  = nothing", "not a readable FITS"), (None, "no such file")])
def test_a_reference_that_cannot_be_read_is_named(night_pair, tmp_path, content, reason):
    science, _, model = night_pair
    if content:
        (tmp_path / "bad.fits").write_bytes(content)
    with pytest.raises(ImageError, match=f"bad.fits: {reason}"):
        search_image(
            science,
            reference=tmp_path / "bad.fits",
            classifier=Classifier.load(model),
            recipe=recipe(),
            image="n1",
        )


@pytest.mark.parametrize(("shift", "warned"), [(0.0, False), (0.1, True)])
def test_a_wcs_that_is_wrong_is_told(shift, warned, caplog):
    header = tangential(2.0).to_header()
    other = tangential(2.0).to_header()
    other["CRVAL1"] += shift
    record = {"to_reference": [[1.0, 0.0, 3.0], [0.0, 1.0, 0.0]]}
    offset = _wcs_offset(celestial_wcs(header, image="n1"), (60, 80), record, [other], image="n1")
    assert offset == pytest.approx(np.hypot(3600 * shift * np.cos(np.radians(header["CRVAL2"])), 3.0), rel=0.05)
    assert ("one WCS is wrong" in caplog.text) == warned
    assert np.isnan(_wcs_offset(None, (60, 80), record, [other], image="n1"))
    assert np.isnan(_wcs_offset(celestial_wcs(header, image="n1"), (60, 80), {}, [other], image="n1"))


@pytest.mark.parametrize(
    ("name", "of_reference", "refused"), [("r", "R", False), ("r", "B", True), ("Clear", "B", False), ("r", "", False)]
)
def test_a_reference_of_another_filter_is_refused(name, of_reference, refused):
    headers = [fits.Header(), fits.Header([("FILTER", of_reference)])]
    if not refused:
        _check_filter(name, headers, image="n1", reference="ref.fits")
        return
    with pytest.raises(ImageError, match="n1: FILTER: the image was taken in 'r' but the reference ref.fits in 'B'"):
        _check_filter(name, headers, image="n1", reference="ref.fits")


def test_candidates_and_scores_are_those_of_the_rules(night_pair, tmp_path):
    """The functions of the rules, run one by one without injected sources, give exactly the same table."""
    science, reference, model = night_pair
    mine, file = recipe(), lambda name: tmp_path / name
    about = {"image": "n1", "detector": mine.detector, "wcs": None}
    psf_files(science=science, psf=file("psf.fits"), record=file("psf.json"), catalogue=None, needs_wcs=False,
              cutout_size=mine.pipeline.cutouts.size, options=mine.pipeline.psf, **about)  # fmt: skip
    frame = read_image(science, name="n1", detector=mine.detector, record=read_json(file("psf.json")))
    write_planes(file("injected.fits"), {"sci": frame.data}, frame.header.copy(strip=True))
    nothing = {name: np.zeros(0) for name in ("id", "x", "y", "flux", "mag")} | {"kind": np.zeros(0, str)}
    write_table(file("injected.csv"), pd.DataFrame(nothing))
    prepare_files(injected=file("injected.fits"), psf_record=file("psf.json"), prepared=file("prepared.fits"),
                  options=mine.pipeline.prepare, image="n1", detector=mine.detector)  # fmt: skip
    subtract_files(prepared=file("prepared.fits"), psf_record=file("psf.json"), reference=reference,
                   difference=file("difference.fits"), record=file("subtract.json"), injected=file("injected.csv"),
                   options=mine.pipeline.subtract, **about)  # fmt: skip
    made = {"difference": file("difference.fits"), "psf": file("psf.fits"), "psf_record": file("psf.json")}
    made |= {"subtract_record": file("subtract.json"), "image": "n1", "telescope": mine.telescope}
    detect_files(
        candidates=file("candidates.csv"), size=mine.pipeline.cutouts.size, options=mine.pipeline.detect, **made
    )
    write_table(
        file("labelled.csv"), _unlabelled(read_table(file("candidates.csv")), read_json(file("psf.json"))["seeing_px"])
    )
    cutouts_files(labelled=file("labelled.csv"), cutouts=file("cutouts.npz"), pipeline=mine.name,
                  options=mine.pipeline.cutouts, **made)  # fmt: skip
    stack = read_stack(file("cutouts.npz"))
    scored = Classifier.load(model).classify({**stack, "cube": stack["stack"]})
    found = search_image(science, reference=reference, classifier=Classifier.load(model), recipe=mine, image="n1")
    assert len(found.table["candid"]) == len(stack["candid"]) > 2
    rows = [list(stack["candid"]).index(name) for name in found.table["candid"]]
    np.testing.assert_array_equal(found.stamps, stack["stack"][rows])
    for name in set(found.table) & (set(scored) | set(stack)):
        values = found.table[name]
        theirs = np.asarray(scored[name] if name in scored else stack[name])[rows]
        np.testing.assert_array_equal(values, theirs, err_msg=name)
