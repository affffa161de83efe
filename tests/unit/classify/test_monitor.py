"""Comparison of a night with the training set: false alarms and power by image, mixed classes, advice."""

import subprocess
import sys

import numpy as np
import pytest

from otrain_core.classify.descriptors import DESCRIPTORS, limits, training_statistics
from otrain_core.classify.monitor import (
    advise,
    as_text,
    compare_night,
    image_names,
    is_unlike,
    of_many_telescopes,
    tail_of_t,
)
from otrain_core.errors import CubeError, OtrainError
from otrain_core.figures.night import NightDisplay


def _images(rng, n_images, n_candidates, *, factor=1.0, share_true=0.5, shift=0.0):
    """Descriptors of candidates: the seeing is that of the image, the rest scatters; False ones miss more pixels."""
    image = np.sort(rng.permutation(n_candidates) % n_images)
    label = (rng.random(n_candidates) < share_true).astype(int)
    seeing = factor * np.exp(rng.normal(1.0, 0.1, n_images))[image]
    background = rng.normal(2, 0.5, n_images)[image] + rng.normal(0, 2, n_candidates) + 4 * (label == 0)
    found = {
        "seeing": seeing,
        "psf_width": 1.2 * seeing * rng.normal(1, 0.01, n_candidates),
        "noise": np.exp(rng.normal(2, 0.05, n_images)[image] + rng.normal(0, 0.1, n_candidates)),
        "background": background,
        "level": rng.normal(0.1, 0.1, n_candidates) + shift,
        "missing": rng.uniform(0, 0.05, n_candidates) * (label == 0),
        "probability": np.where(rng.random(n_candidates) < 0.1, 0.6, np.where(label == 1, 0.97, 0.02)),
    }
    return found | {"score": found["probability"]}, np.char.mod("im%d", image), label


def _statistics(rng, n_images=20):
    found, images, labels = _images(rng, n_images, 100 * n_images)
    statistics = training_statistics({name: found[name] for name in DESCRIPTORS}, images, labels)
    for key in statistics["images"]:
        statistics["images"][key]["doubt"] = list(rng.normal(0.05, 0.01, 10))
    return statistics


def _of(comparisons, name):
    return next(item for item in comparisons if item.quantity == name)


def test_the_tail_is_that_of_students_t():
    from scipy.stats import t

    angle = np.linspace(0, np.pi / 2, 5001)
    for freedom, value in ((3, 1.5), (3, 12.0), (18, 2.9), (60, 3.5)):
        tail = np.interp(np.arctan(value / np.sqrt(freedom)), angle, tail_of_t(angle, freedom))
        assert tail == pytest.approx(2 * t.sf(value, freedom), rel=0.02)


@pytest.mark.parametrize(("n_images", "least_power"), [(1, 0.0), (5, 0.85), (20, 0.99)])
def test_false_alarms_and_power_of_200_candidates(n_images, least_power):
    """Nights are dealt by image, and half of them hold False candidates alone."""
    rng = np.random.default_rng(n_images)
    alarms, flagged, promised, trials = 0, 0, [], 150
    for k in range(trials):
        statistics = _statistics(rng)
        night, images, _ = _images(rng, n_images, 200, share_true=0.5 * (k % 2))
        compared = compare_night(night, statistics, images=images)
        alarms += any(item.alarm for item in compared)
        promised.append(_of(compared, "seeing").detectable)
        wide = night | {"seeing": 1.3 * night["seeing"]}
        flagged += _of(compare_night(wide, statistics, images=images), "seeing").alarm
    assert alarms <= 0.01 * trials + 4  # three standard deviations above
    assert flagged >= least_power * trials
    assert (np.median(promised) < 0.3) == (least_power > 0.8)  # what cannot be seen is told


def test_a_change_of_one_class_only_is_the_mix():
    """Candidates of a night are mostly False: they lie between the classes, or like one of them."""
    rng = np.random.default_rng(3)
    statistics = _statistics(rng)
    night, images, _ = _images(rng, 20, 2000, share_true=0.02)
    background = _of(compare_night(night, statistics, images=images), "background")
    assert not background.alarm and background.night > np.median(statistics["images"]["true"]["background"]) + 2
    shifted = _of(
        compare_night(night | {"background": night["background"] + 6}, statistics, images=images), "background"
    )
    assert shifted.alarm and shifted.change > 2


@pytest.mark.parametrize(
    ("changed", "quantity", "words"),
    [
        (
            lambda night: {"seeing": 1.6 * night["seeing"]},
            "seeing",
            "Retrain the model with images of such nights: seeing",
        ),
        (
            lambda night: {"seeing": 1.18 * night["seeing"]},
            "seeing",
            "within the range of the training set, but differs from most of it",
        ),
        (lambda night: {"probability": 0 * night["score"] + 0.6}, "doubt", "Label some candidates"),
        (lambda night: {"missing": night["missing"] + 0.3}, "missing", "Retrain the model"),
        (lambda night: {}, None, "There is no reason to retrain the model."),
    ],
)
def test_advice(changed, quantity, words):
    rng = np.random.default_rng(8)
    statistics = _statistics(rng, 40)
    night, images, _ = _images(rng, 40, 2000)
    compared = compare_night(night | changed(night), statistics, images=images)
    assert [item.quantity for item in compared if item.alarm] == ([quantity] if quantity else [])
    advice = advise(compared, n_images=40)
    assert words in advice and "nan" not in advice
    assert as_text(compared).count("ALARM") == (quantity is not None)


def test_what_cannot_be_tested_is_not_called_unchanged():
    rng = np.random.default_rng(1)
    night, images, _ = _images(rng, 1, 200, factor=1.5)
    few = advise(compare_night(night, _statistics(rng, 3), images=images), n_images=1)
    assert few.startswith("It is not known whether the night has changed: only") and "seeing" in few
    statistics = _statistics(rng)
    night["seeing"][:] = 1.01 * limits("seeing", statistics["quantiles"]["seeing"])[1]
    night["psf_width"] = 1.2 * night["seeing"]
    one = advise(compare_night(night, statistics, images=images), n_images=1)
    assert "No alarm, but so few images can hardly raise one" in one
    assert "outside the range of the training set: seeing" in one


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[], [0.0, 0.0], [8.0]])
def test_a_class_without_a_scatter_does_not_hide_the_other(values):
    rng = np.random.default_rng(1)
    night, images, _ = _images(rng, 1, 200)
    night["noise"] *= 10
    statistics = _statistics(rng)
    statistics["images"]["true"]["noise"] = values
    noise = _of(compare_night(night, statistics, images=images), "noise")
    assert noise.alarm and noise.p < 1e-6 and noise.change == pytest.approx(9, rel=0.2)


def test_a_night_of_clear_cases_is_no_alarm():
    rng = np.random.default_rng(2)
    night, images, _ = _images(rng, 20, 2000)
    doubt = _of(compare_night(night | {"probability": night["score"] * 0}, _statistics(rng), images=images), "doubt")
    assert doubt.p < 1e-4 and not doubt.alarm


def test_images_without_names():
    seeing = np.array([2.0, 2.0, 3.0, np.nan])
    assert len(np.unique(image_names(None, seeing, 4))) == 3
    assert len(np.unique(image_names(["", "", "", ""], None, 4))) == 1
    assert image_names(["a", "b", "b", "c"], seeing, 4).tolist() == ["a", "b", "b", "c"]
    with pytest.raises(CubeError, match="4 names are needed"):
        image_names(["a"], seeing, 4)


def test_what_is_not_known_is_told():
    rng = np.random.default_rng(1)
    night, images, _ = _images(rng, 3, 200)
    night["seeing"] = np.full(200, np.nan)
    seeing = _of(compare_night(night, _statistics(rng), images=images), "seeing")
    assert seeing.note == "not known of the night" and not seeing.alarm and np.isnan(seeing.p)
    few = compare_night(night, _statistics(rng, 4), images=images)
    assert _of(few, "noise").note == "only 4 images in the training set" and not any(item.alarm for item in few)
    with pytest.raises(OtrainError, match="no candidates"):
        compare_night({"score": np.empty(0)}, {})
    with pytest.raises(OtrainError, match="otrain models export"):
        compare_night(night, {"quantiles": {}}, images=images)


def test_the_figure_shows_what_was_compared():
    rng = np.random.default_rng(1)
    found, images, _ = _images(rng, 3, 200)
    found["seeing"] = 2 * found["seeing"]
    statistics = _statistics(rng)
    figure = NightDisplay(compare_night(found, statistics, images=images), statistics["quantiles"]).plot()
    seeing = figure.axes[0]
    assert "ALARM" in seeing.get_title(loc="left")
    low, high = seeing.get_xlim()
    assert low < np.median(statistics["images"]["true"]["seeing"]) and high > found["seeing"].max()


def test_nothing_heavy_is_imported():
    code = (
        "import sys, otrain_core.classify.monitor, otrain_core.cli.monitor\n"
        "heavy = {'pandas', 'scipy', 'tensorflow', 'keras', 'matplotlib', 'mlflow', 'pydantic', 'stdpipe'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _of_telescopes(rng, n=300):
    """Statistics of a model of many telescopes: one image each, with a seeing from about 1.2 to 6 px."""
    image = np.repeat(np.arange(n), 20)
    found, _, label = _images(rng, n, 20 * n)
    scale = np.exp(rng.normal(0, 0.4, n))[image]
    found["seeing"] = scale * np.exp(1.0)
    found["noise"] = 10 * scale * np.exp(rng.normal(0, 0.1, len(image)))
    statistics = training_statistics({name: found[name] for name in DESCRIPTORS}, np.char.mod("t%d", image), label)
    for key in statistics["images"]:
        statistics["images"][key]["doubt"] = list(np.clip(rng.normal(0.05, 0.02, 100), 0, 1))
    return statistics


def test_the_images_of_a_telescope_count_once_for_a_model_of_many():
    """Ten images of one telescope are not ten telescopes: 100 nights, each of another telescope of the same kind."""
    rng = np.random.default_rng(4)
    statistics, alarms = _of_telescopes(rng), {True: 0, False: 0}
    for _ in range(100):
        night, images, _ = _images(rng, 10, 200)
        scale = np.exp(rng.normal(0, 0.4))
        night["seeing"] = np.full(200, scale * np.exp(1.0))
        night["noise"] = 10 * scale * np.exp(rng.normal(0, 0.1, 200))
        for many in alarms:
            compared = compare_night(night, statistics, images=images, many_telescopes=many)
            alarms[many] += any(item.alarm for item in compared)
    assert alarms[True] <= 4 and alarms[False] > 25


@pytest.mark.parametrize(
    ("changed", "quantity", "words"),
    [
        (lambda night: {}, None, "This telescope is like those that the model was trained on."),
        (
            lambda night: {"seeing": 12 * night["seeing"]},
            "seeing",
            "100 % of the candidates are outside the range of the",
        ),
        (
            lambda night: {"missing": np.where(np.arange(200) % 5 == 0, 0.9, night["missing"])},
            "missing",
            "20 % of the candidates are outside the range of the telescopes",
        ),
        (lambda night: {"probability": 0 * night["score"] + 0.6}, "doubt", "The scores are less certain than for the"),
    ],
)
def test_advice_for_a_model_of_many_telescopes(changed, quantity, words):
    rng = np.random.default_rng(8)
    statistics = _of_telescopes(rng)
    night, images, _ = _images(rng, 10, 200)
    night |= {"noise": np.full(200, 10.0)}
    compared = compare_night(night | changed(night), statistics, images=images, many_telescopes=True)
    assert [item.quantity for item in compared if item.alarm] == ([quantity] if quantity else [])
    assert is_unlike(compared) == (quantity is not None)
    advice = advise(compared, n_images=10, many_telescopes=True)
    assert advice.startswith(words) and "otrain train --from universal" in advice and "etrain" not in advice


def test_which_models_are_of_many_telescopes():
    assert all(
        of_many_telescopes({"telescope": name}) for name in ("universal", "pool-drawn", "pool-without-TCA", "pool")
    )
    assert not any(of_many_telescopes(about) for about in ({"telescope": "TCA"}, {"telescope": None}, {}))
