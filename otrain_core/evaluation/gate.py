"""The gate: what a training must reach before it can be the champion of its telescope, and how one is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.evaluation.metrics import confusion, rates
from otrain_core.plan.config import GateOptions
from otrain_core.results import number, read_record, read_scores

# What the gate reads of the headline of ``metrics.json``; a registered version keeps these as tags.
NUMBERS = ("mcc", "fp_share")


def refusal(numbers: Mapping[str, Any], options: GateOptions, *, protocol: str = "grouped") -> str:
    """What a training fails at, in words; '' where it passes.

    Parameters
    ----------
    numbers : mapping
        `NUMBERS` of the training, from its headline. A missing one is NaN, and fails.
    options : GateOptions
        MCC must exceed its bound, false positives may reach theirs.
    protocol : {'grouped', 'paper'}
        Only ``grouped`` is scored on images that the model never saw.
    """
    mcc, fp_share = number(numbers, "mcc"), number(numbers, "fp_share")
    if protocol != "grouped":
        return "not scored on images it never saw"
    if not mcc > options.min_mcc:
        return f"MCC {mcc:.3f} is not above {options.min_mcc:g}"
    if not fp_share <= options.max_fp:
        return f"false positives {fp_share:.3f} of the test set, more than {options.max_fp:g}"
    return ""


def tune_mcc(folder: str | Path) -> float:
    """MCC of a training on tune at its own threshold, by which the best training is chosen; NaN where unknown.

    A choice by test would flatter what is then read from test. Under the protocol ``paper`` nothing
    is tune: NaN.
    """
    scores, record = read_scores(folder), read_record(Path(folder) / "metrics.json")
    threshold = number(record.get("headline") or {}, "threshold")
    if scores is None or not np.isfinite(threshold):
        return np.nan
    tune = scores[scores["set"] == "tune"]
    if tune.empty:
        return np.nan
    return rates(**confusion(tune["label"], tune["score"], threshold))["mcc"]
