"""The gate: criteria that a training must meet to become the champion of its telescope."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.evaluation.metrics import confusion, rates
from otrain_core.plan.config import GateOptions
from otrain_core.results import number, read_record, read_scores

CUTS = "fixed-cuts"  # name of the fixed cuts among the experiments of a run
SHIPPED = "universal"  # name of the shipped model among the experiments of a run
NOT_TRAINED = (CUTS, SHIPPED)
# Keys of the headline of ``metrics.json`` that the gate reads; a registered version keeps them as tags.
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
    """Reason why a training does not pass the gate; '' if it passes.

    Parameters
    ----------
    numbers : mapping
        `NUMBERS` of the training, from its headline. A missing number is NaN and fails. Exceptions are the numbers
        of the fixed cuts (missing for a cube without S/N and FWHM) and of the shipped model (missing for cutouts that
        do not fit it), and sky_unknown (1: it is not known which images show the same sky).
    options : GateOptions
        The lower end of the interval of the MCC must exceed its bound; the false positives may equal theirs.
    protocol : {'by-image', 'random'}
        Only ``by-image`` is scored on images that the model never saw.
    """
    if protocol != "by-image":
        return "it was not scored on images that it never saw"
    if number(numbers, "sky_unknown") > 0:
        return "it is not known which images show the same sky, so a star may be in both train and test"
    if lacks := missing_from_test(numbers, options):
        return f"the test set is too small: {lacks}"
    mcc, mcc_low, fp_share = (number(numbers, key) for key in ("mcc", "mcc_low", "fp_share"))
    if not mcc > options.min_mcc:
        return f"MCC {mcc:.3f} is not above {options.min_mcc:g}"
    if not mcc_low > options.min_mcc:
        return f"MCC {mcc:.3f} may be as low as {mcc_low:.3f}, which is not above {options.min_mcc:g}"
    if not fp_share <= options.max_fp:
        return f"false positives are {fp_share:.3f} of the test set, more than {options.max_fp:g}"
    return not_beaten(numbers, by=options.min_gain) or not_better(numbers, by=options.min_gain_shipped)


def missing_from_test(numbers: Mapping[str, Any], options: GateOptions) -> str:
    """What the test set lacks for a verdict, as in ``7 of 50 False``; '' if it is large enough."""
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
    """Statement that the training does not beat the fixed cuts; '' if it does, or if there are no cuts.

    It beats them if the interval of its gain in MCC, with the same images drawn for both, lies above `by`;
    if there are too few images for an interval, the gain itself must lie above `by`.
    """
    cuts, gain, low = (number(numbers, key) for key in ("baseline_mcc", "gain", "gain_low"))
    if not np.isfinite(cuts) or (low if np.isfinite(low) else gain) > by:
        return ""
    words = f"MCC {number(numbers, 'mcc'):.3f} does not beat fixed cuts on S/N, FWHM and shape ({cuts:.3f})"
    return f"{words} by more than chance" if gain > max(by, 0) else words


def not_better(numbers: Mapping[str, Any], *, by: float = 0.0) -> str:
    """Statement that the training is not shown to be better than the shipped model; '' if it is, or without a comparison.

    It is better if the interval over images of its gain in MCC, with the same images drawn for both, lies above `by`.
    With `by` at -2, the lowest possible gain, every training passes.
    """
    shipped, low = (number(numbers, key) for key in ("shipped_mcc", "shipped_gain_low"))
    if not np.isfinite(shipped) or by <= -2 or low > by:
        return ""
    words = f"MCC {number(numbers, 'mcc'):.3f} is not shown to be above that of the shipped model ({shipped:.3f})"
    if number(numbers, "shipped_gain") < 0:
        return f"{words}; use the shipped model: otrain classify without -m"
    return words


def validation_mcc(folder: str | Path) -> float:
    """MCC of a training on the validation set at its own threshold; NaN where unknown.

    The best training is chosen by this number: if it were chosen by the test set, its scores on the test set would
    be biased upwards. The protocol ``random`` has no validation set: NaN.
    """
    scores, record = read_scores(folder), read_record(Path(folder) / "metrics.json")
    threshold = number(record.get("headline") or {}, "threshold")
    if scores is None or not np.isfinite(threshold):
        return np.nan
    validation = scores[scores["set"] == "validation"]
    if validation.empty:
        return np.nan
    return rates(**confusion(validation["label"], validation["score"], threshold))["mcc"]
