"""The gate: what a training must reach before it can be the champion of its telescope, and how one is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.evaluation.metrics import confusion, rates
from otrain_core.plan.config import GateOptions
from otrain_core.results import number, read_record, read_scores

CUTS = "fixed-cuts"  # name of the fixed cuts among the experiments of a run
SHIPPED = "universal"  # and of the shipped model
NOT_TRAINED = (CUTS, SHIPPED)
# What the gate reads of the headline of ``metrics.json``; a registered version keeps these as tags.
NUMBERS = (
    "mcc",
    "mcc_low",
    "fp_share",
    "n_images",
    "n_true",
    "n_false",
    "baseline_mcc",
    "gain",
    "gain_low",
    "sky_unknown",
    "shipped_mcc",
    "shipped_gain",
    "shipped_gain_low",
)


def refusal(numbers: Mapping[str, Any], options: GateOptions, *, protocol: str = "by-image") -> str:
    """What a training fails at, in words; '' where it passes.

    Parameters
    ----------
    numbers : mapping
        `NUMBERS` of the training, from its headline. A missing one is NaN and fails, but for those of the fixed cuts
        (a cube without S/N and FWHM has none) and of the shipped model (cutouts that do not fit it have none), and sky_unknown (1: nothing tells which images show the same sky).
    options : GateOptions
        MCC must exceed its bound with the lower end of its interval, false positives may reach theirs.
    protocol : {'by-image', 'random'}
        Only ``by-image`` is scored on images that the model never saw.
    """
    if protocol != "by-image":
        return "not scored on images it never saw"
    if number(numbers, "sky_unknown") > 0:
        return "nothing tells which images show the same sky: a star may stand in train and in test"
    if lacks := missing_from_test(numbers, options):
        return f"the test set is too small: {lacks}"
    mcc, mcc_low, fp_share = (number(numbers, key) for key in ("mcc", "mcc_low", "fp_share"))
    if not mcc > options.min_mcc:
        return f"MCC {mcc:.3f} is not above {options.min_mcc:g}"
    if not mcc_low > options.min_mcc:
        return f"MCC {mcc:.3f} may be as low as {mcc_low:.3f}, which is not above {options.min_mcc:g}"
    if not fp_share <= options.max_fp:
        return f"false positives {fp_share:.3f} of the test set, more than {options.max_fp:g}"
    return not_beaten(numbers, by=options.min_gain) or not_better(numbers, by=options.min_gain_shipped)


def missing_from_test(numbers: Mapping[str, Any], options: GateOptions) -> str:
    """What a test set has too few of for a verdict, as in ``7 of 50 False``; '' where it is large enough."""
    wanted = (
        ("n_images", "images", options.min_images),
        ("n_true", "True", options.min_per_class),
        ("n_false", "False", options.min_per_class),
    )
    lacks = []
    for key, name, least in wanted:
        there = number(numbers, key)
        if not there >= least:
            lacks.append(f"{there:.0f} of {least} {name}")
    return ", ".join(lacks)


def not_beaten(numbers: Mapping[str, Any], *, by: float = 0.0) -> str:
    """That the training does not beat the fixed cuts, in words; '' where it does, or where there are no cuts.

    It beats them where the interval of the MCC that it gains, from the same images drawn for both, lies above `by`;
    where the images are too few for an interval, where the gain does.
    """
    cuts, gain, low = (number(numbers, key) for key in ("baseline_mcc", "gain", "gain_low"))
    if not np.isfinite(cuts) or (low if np.isfinite(low) else gain) > by:
        return ""
    words = f"MCC {number(numbers, 'mcc'):.3f} does not beat fixed cuts on S/N, FWHM and shape ({cuts:.3f})"
    return f"{words} by more than chance" if gain > max(by, 0) else words


def not_better(numbers: Mapping[str, Any], *, by: float = 0.0) -> str:
    """That the training is not shown to be better than the shipped model, in words; '' where it is, or where nothing compares.

    It is where the interval over images of the MCC that it gains, from the same images drawn for both, lies above `by`.
    Where the interval lies below 0 the shipped model is the better one. With `by` at -2 anything will do.
    """
    shipped, low = (number(numbers, key) for key in ("shipped_mcc", "shipped_gain_low"))
    if not np.isfinite(shipped) or by <= -2 or low > by:
        return ""
    words = f"MCC {number(numbers, 'mcc'):.3f} is not shown to be above that of the shipped model ({shipped:.3f})"
    if number(numbers, "shipped_gain") < 0:
        return f"{words}; use the shipped model: otrain classify without -m"
    return words


def validation_mcc(folder: str | Path) -> float:
    """MCC of a training on validation at its own threshold, by which the best training is chosen; NaN where unknown.

    A choice by test would flatter what is then read from test. Under the protocol ``random`` nothing
    is validation: NaN.
    """
    scores, record = read_scores(folder), read_record(Path(folder) / "metrics.json")
    threshold = number(record.get("headline") or {}, "threshold")
    if scores is None or not np.isfinite(threshold):
        return np.nan
    validation = scores[scores["set"] == "validation"]
    if validation.empty:
        return np.nan
    return rates(**confusion(validation["label"], validation["score"], threshold))["mcc"]
