"""All steps of one image in one process: bad images, costs. tests/e2e/test_fused.py compares it with the rules."""

import pandas as pd
import pytest

from otrain_core.chain.image import image_files
from otrain_core.chain.steps import KEPT
from otrain_core.errors import ImageError
from otrain_core.io import read_json
from otrain_core.jobs.job import KEEP_GOING
from otrain_core.plan.chain import Chain, Frame
from otrain_core.plan.pipelines import InjectOptions, Pipeline
from otrain_core.plan.telescopes import Detector
from otrain_core.results import fused_costs


def chain_of(*frames):
    return Chain(
        telescope="T",
        name="p",
        pipeline=Pipeline(inject=InjectOptions(n_sources=20)),
        detector=Detector(),
        seed=1,
        needs_wcs=False,
        makes_sky=True,
        frames=list(frames),
    )


def run(chain, cache):
    image_files(chain=chain, steps="results/T/p/images/bad/steps.csv", cache=cache, log="image.log")


@pytest.fixture
def frames(night_pair, tmp_path, monkeypatch):
    """A frame that is missing, and one that is good."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(KEEP_GOING, raising=False)
    science, reference, _ = night_pair
    bad = Frame(image="bad", number=0, science="bad.fits", reference=str(reference))
    return bad, Frame(image="good", number=1, science=str(science), reference=str(reference))


def test_a_bad_image_is_left_out_and_the_next_one_is_done(frames, tmp_path, monkeypatch):
    monkeypatch.setenv(KEEP_GOING, "1")
    run(chain_of(*frames), tmp_path)
    bad, good = (tmp_path / f"results/T/p/images/{name}" for name in ("bad", "good"))
    marks = {name: (bad / name).read_text() for name in KEPT}
    assert all("otrain_failed" in text and "bad.fits: no such file" in text for text in marks.values())
    assert '"step": "cutouts"' in marks["cutouts.npz"]  # as the separate rule does
    records = sorted(path.name for path in (tmp_path / "results/failures/T/p/bad").iterdir())
    assert records == ["psf.json"]
    assert sorted(path.name for path in good.iterdir()) == sorted(KEPT)
    assert read_json(good / "crossmatch.json")["n_true"] > 0
    costs = fused_costs(tmp_path / "results/T/p")
    assert {step for image, step in costs if image == "good"} == {
        "psf", "inject", "prepare", "subtract", "detect", "crossmatch", "cutouts"
    }  # fmt: skip
    assert costs["bad", "start"][0] > 0 and costs["good", "subtract"][1] > 50


def test_a_failure_before_the_subtraction_is_recorded_once(frames, tmp_path, monkeypatch):
    monkeypatch.setenv(KEEP_GOING, "1")

    def fail(*args, **options):
        raise ImageError("good", "data", "no sky")

    monkeypatch.setattr("otrain_core.chain.steps.prepare_files", fail)
    run(chain_of(frames[1]), tmp_path)
    assert "no sky" in (tmp_path / "results/T/p/images/good/cutouts.npz").read_text()
    assert [path.name for path in (tmp_path / "results/failures/T/p/good").iterdir()] == ["prepare.json"]


def test_a_bad_image_stops_the_job(frames, tmp_path):
    run(chain_of(frames[1]), tmp_path)
    stale = tmp_path / "results/T/p/images/bad"
    (stale / "steps.csv").unlink()
    (stale / "cutouts.npz").write_text("of an earlier run")
    with pytest.raises(SystemExit):
        run(chain_of(*frames), tmp_path)
    assert list(stale.iterdir()) == []  # old files are removed


def test_the_buffers_of_sep_are_those_of_a_new_process(frames, tmp_path):
    import sep

    before = (sep.get_extract_pixstack(), sep.get_sub_object_limit())
    sep.set_extract_pixstack(5)
    try:
        run(chain_of(frames[1]), tmp_path)
    finally:
        sep.set_extract_pixstack(before[0])
        sep.set_sub_object_limit(before[1])
    assert pd.read_csv("results/T/p/images/bad/steps.csv").step.tolist()[-1] == "cutouts"
