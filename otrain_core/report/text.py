"""Sentences of the report: the verdict on a classifier, numbers with their intervals, and limitations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.cubes.copies import tell_copies
from otrain_core.evaluation.gate import missing_from_test, not_beaten, not_better, refusal
from otrain_core.evaluation.words import count, interval, num, pct, several
from otrain_core.plan.config import GateOptions
from otrain_core.results import number, read_record, run_keys

FEW_IMAGES = 10  # with fewer test images the bootstrap over images is itself uncertain
WIDE_GAP = 0.02  # |accuracy(train) - accuracy(validation)|, Makhlouf et al. 2022, Fig. 11


def page_templates(*folders: Path):
    """jinja2.Environment of the pages: texts are escaped, and an undefined name is an error.

    `folders` contain further templates.
    """
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).with_name("templates"), *folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def verdict(
    part: Mapping[str, Any],
    best: Path | None,
    champion: Mapping[str, Any] | None,
    gate: GateOptions,
    validation: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    """Summary of a classifier for its user: numbers and limitations.

    Parameters
    ----------
    part : mapping
        What the page knows of the cube.
    best : path or None
        Folder of the best training.
    champion : mapping or None
        The registered champion of the telescope.
    gate : GateOptions
    validation : mapping
        MCC on the validation set of the trainings that `best` was chosen from, by experiment and seed.

    Returns
    -------
    dict
        worth (sentences on the limits of the score, shown first; empty if there are none), lines and cautions.
    """
    of_cube = cube_lines(part["record"]) + part.get("warnings", [])
    if best is None:
        cautions = ["No training of this cube was evaluated on images that it never saw."]
        return {"worth": [], "lines": [], "cautions": cautions + of_cube}
    metrics = read_record(best / "metrics.json")
    row, keys = metrics["headline"], run_keys(best)
    chosen = (champion.get("experiment"), champion.get("seed")) if champion else None
    is_champion = chosen == (keys["experiment"], str(keys["seed"]))
    lines = _score_lines(
        metrics, row, f"{keys['experiment']}, seed {keys['seed']}", _choice(validation, keys, is_champion)
    )
    seeds = [t["headline"]["mcc"] for t in part["trainings"] if t["headline"] and _same_but_seed(t, keys)]
    if len(seeds) > 1:
        lines.append(
            f"Over {len(seeds)} seeds of {keys['experiment']}, MCC ranges from {num(min(seeds))} to {num(max(seeds))}."
        )
    lines += _cut_lines(metrics.get("baseline") or {}, row)
    lines += _shipped_lines(metrics.get("shipped") or {})
    lines += _purity_lines(metrics.get("purity") or {})
    if champion and is_champion:
        lines.append(f"Registered as {champion['model']}, version {champion['version']}, alias champion.")
    explained = read_record(best / "explain.json")
    cautions = _cautions(part, metrics, row, gate) + map_cautions(explained) + of_cube
    return {"worth": worth(row, gate), "lines": lines, "cautions": cautions}


def worth(row: Mapping[str, Any], gate: GateOptions) -> list[str]:
    """Limits of the score of a training, most serious first; empty if there are none."""
    found = []
    if number(row, "sky_unknown") > 0:
        found.append(
            "It is not known which images show the same sky (no WCS, and no common field or reference): a star"
            " may be in both train and test, so the scores may be too high."
        )
    if lacks := missing_from_test(row, gate):
        found.append(f"The test set is too small for a verdict ({lacks}).")
    if beaten := not_beaten(row, by=gate.min_gain):
        found.append(f"{beaten}.")
    if short := not_better(row, by=gate.min_gain_shipped):
        found.append(f"{short}.")
    return [*found, "No model becomes champion."] if found else []


def _score_lines(metrics: Mapping[str, Any], row: Mapping[str, Any], name: str, choice: str) -> list[str]:
    where = f"{several(row['n_images'], 'image')} that it never saw ({count(row['n_true'])} True, {count(row['n_false'])} False)"
    alarms = f"That is {interval(row, 'false_alarms_per_image', digits=2)} false alarms per image"
    kept = number(metrics.get("data") or {}, "kept_false")
    return [
        f"Best: {name}, threshold {num(row['threshold'])} (from the validation set).{choice} Scored on {where}.",
        f"It keeps {interval(row, 'recall', percent=True)} of the True and lets {interval(row, 'fpr', percent=True)} of the"
        f" False through; MCC {interval(row, 'mcc')}.",
        f"To miss at most 1 % (5 %) of the True, it must accept {interval(row, 'fpr_at_1pct_missed', percent=True)}"
        f" ({interval(row, 'fpr_at_5pct_missed', percent=True)}) of the False.",
        alarms + (f", corrected for the {pct(kept, 0)} of all False that the cube contains." if kept < 1 else "."),
    ]


def _cut_lines(cuts: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Score of the fixed cuts on the same images."""
    if not np.isfinite(number(cuts, "mcc")):
        return []
    gain = f"; the classifier gains {interval(row, 'gain')}" if np.isfinite(number(row, "gain_low")) else ""
    return [f"Fixed cuts on S/N, FWHM and shape reach MCC {interval(cuts, 'mcc')} on the same images{gain}."]


def _shipped_lines(shipped: Mapping[str, Any]) -> list[str]:
    """Score of the shipped model on the same images, and the gain of the classifier over it."""
    if not np.isfinite(number(shipped, "mcc")):
        return []
    return [
        f"The shipped model, which saw no image of this telescope, reaches MCC {interval(shipped, 'mcc')} on the same"
        f" images (AUC {interval(shipped, 'auc')}); the classifier gains {interval(shipped, 'gain')}."
    ]


def _purity_lines(purity: Mapping[str, Any]) -> list[str]:
    """Fraction of accepted candidates that are real; only its lower limit is known if no False was accepted."""
    shares = []
    for name, values in purity.items():
        low, high, value = (number(values, key) for key in ("low", "high", "value"))
        if np.isfinite(value):
            shares.append(f"{name}: {pct(value)} [{num(100 * low, 1)}, {num(100 * high, 1)}]")
        elif np.isfinite(low):
            shares.append(f"{name}: not known (at least {pct(low)})")
    if not shares:
        return []
    return [
        f"Fraction of accepted candidates that are real, by the fraction of all candidates that are real: {'; '.join(shares)}."
    ]


def _choice(validation: Mapping[tuple[str, int], float], keys: Mapping[str, Any], is_champion: bool) -> str:
    """Sentence on how the best training was chosen; '' if there was no choice."""
    if len(validation) < 2:
        return ""
    among = "those that pass the gate" if is_champion else f"{len(validation)} trainings"
    mine = num(validation.get((keys["experiment"], keys["seed"])))
    return f" Chosen by MCC on validation ({mine}), not on test, among {among}."


def _same_but_seed(training: Mapping[str, Any], keys: Mapping[str, Any]) -> bool:
    return all(training[name] == keys[name] for name in ("experiment", "protocol"))


def _cautions(
    part: Mapping[str, Any], metrics: Mapping[str, Any], row: Mapping[str, Any], gate: GateOptions
) -> list[str]:
    cautions = ["Every True is an injected point source: what is extended, trailed or moving was not tested."]
    if part["simulated"]:
        cautions.append("The images are simulated: these numbers do not apply to any real telescope.")
    if reason := refusal(row, gate):
        cautions.append(f"The model does not pass the gate, and has no champion alias: {reason}.")
    if metrics.get("interval") == "counts":
        cautions.append(
            f"The test set has {several(row['n_images'], 'image')}: intervals come from the counts of cutouts"
            " and ignore the differences between images."
        )
    elif row["n_images"] < FEW_IMAGES:
        cautions.append(f"The test set has {row['n_images']} images: intervals from so few images are rough.")
    gap = number(metrics.get("accuracy_gap") or {}, "train_minus_validation")
    if gap > WIDE_GAP:
        cautions.append(
            f"Accuracy on train is {pct(gap)} above that on the validation set: the model is overfitted, or there are too few cutouts."
        )
    cautions += _calibration_cautions(metrics.get("calibration") or {}, row)
    failed = sum(image["status"] != "ok" for image in part["quality"])
    if failed:
        failing = "failed and is" if failed == 1 else "failed and are"
        cautions.append(
            f"{failed} of {several(len(part['quality']), 'image')} {failing} not in the cube; see Failures."
        )
    return cautions


def _calibration_cautions(calibration: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Cautions on the use of scores as probabilities."""
    if calibration.get("refused"):
        errors = calibration.get("ece_validation") or {}
        return [
            f"The calibration ({calibration['refused']}) would make scores worse as probabilities on validation (ECE"
            f" {num(number(errors, 'none'))} to {num(number(errors, calibration['refused']))}): it is not used."
        ]
    if number(row, "ece") > 0.05:
        return [
            f"A raw score is not a probability (ECE {num(row['ece'])}; {num(number(calibration, 'ece_after'))} after"
            " calibration)."
        ]
    return []


def map_cautions(explained: Mapping[str, Any]) -> list[str]:
    """Caution if the Grad-CAM maps are not centred on the candidates."""
    every = explained.get("all") or {}
    within, flat = number(every, "energy_within_fwhm"), number(every, "energy_of_flat_map")
    if not within < flat:
        return []
    return [
        f"{pct(within)} of the Grad-CAM map lies within one FWHM of the candidate, less than of a flat map ({pct(flat)}):"
        " the decisions may depend on other parts of the cutout than the source. Look at the maps, and at how True and"
        " False differ away from the source."
    ]


def cube_lines(record: Mapping[str, Any]) -> list[str]:
    """Cautions from ``cube.json``: copied cutouts, and what to change if balancing discards most cutouts."""
    lines = []
    labelled = sum(int(record.get(key) or 0) for key in ("n_labelled_true", "n_labelled_false"))
    if told := tell_copies(record["copies"], labelled) if record.get("copies") else "":
        lines.append(f"{told}; all but one of each are left out, and all where their labels disagree.")
    if record.get("advice"):
        lines.append(f"{'; '.join(map(str, record['advice']))}.")
    return lines


def config_lines(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys and values of a nested configuration."""
    lines = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        lines += config_lines(value, f"{name}.") if isinstance(value, Mapping) else [(name, words(value))]
    return lines


def words(value: Any) -> str:
    """A value of the configuration as text; a dash if it is missing."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    missing = value is None or value == "" or (isinstance(value, float) and np.isnan(value))
    return "–" if missing else str(value)
