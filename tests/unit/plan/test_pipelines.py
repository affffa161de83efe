"""Options of the steps of a pipeline, and what differs for single telescopes."""

import pytest
from pydantic import ValidationError

from otrain_core.plan.pipelines import GMADET, STDPIPE, DetectOptions, InjectOptions, Pipeline


def test_what_differs_for_a_telescope_is_laid_over_the_options():
    pipeline = Pipeline(
        inject={"n_sources": 200, "mix": {"random": 1.0}},
        telescopes={"A": {"inject": {"n_sources": 50, "mix": {"star": 0.5}}}},
    )
    mine = pipeline.options("A", "inject")
    assert (mine.n_sources, mine.mix) == (50, {"random": 1.0, "star": 0.5})
    assert pipeline.options("B", "inject").n_sources == 200
    assert pipeline.options("A", "detect") == DetectOptions()


def test_the_shipped_pipelines_differ_where_they_say():
    assert GMADET.options("FRAM-CTA-N", "subtract").hotpants_options["ko"] == 1
    assert GMADET.options("TCA", "subtract").hotpants_options["ko"] == 0
    assert (GMADET.psf.astrometry, STDPIPE.psf.astrometry, STDPIPE.cutouts.size) == ("scamp", "astropy", 63)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"telescopes": {"A": {"injekt": {}}}}, "'injekt' is not a step"),
        ({"telescopes": {"A": {"inject": {"n_source": 3}}}}, "telescopes.A.inject: n_source: unknown key"),
        ({"inject": {"bright_mag": 1, "faint_mag": -2}}, "range of magnitudes would be empty"),
        ({"inject": {"mix": {"random": 0}}}, "mix: at least one value must be positive"),
        ({"inject": {"mix": {"random": float("nan")}}}, "finite"),
        ({"inject": {"n_sources": 10**9}}, "less than or equal to 100000"),
        ({"psf": {"degree": 50}}, "less than or equal to 4"),
        ({"crossmatch": {"exclusion": 0.5}}, "exclusion: must not be smaller than radius"),
        ({"inject": {"negative_fraction": 0.2}}, "negative_fraction needs detect.both_signs"),
        ({"detect": {"fwhm_ratio": [3, 2]}}, "the first ratio must be smaller than the second"),
        ({"detect": {"threshold": 0}}, "greater than 0"),
        ({"cutouts": {"size": 5}}, "greater than or equal to 9"),
    ],
)
def test_bad_options(values, message):
    with pytest.raises(ValidationError, match=message):
        Pipeline.model_validate(values)


def test_options_do_not_change_once_made():
    with pytest.raises(ValidationError, match="frozen"):
        InjectOptions().n_sources = 3
