"""What the report says in words: numbers with their intervals, the verdict on a classifier, its limits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.evaluation.gate import refusal
from otrain_core.evaluation.words import count, interval, num, pct
from otrain_core.plan.config import GateOptions
from otrain_core.results import number, read_record, run_keys

FEW_IMAGES = 10  # with fewer test images the bootstrap by image is itself uncertain
WIDE_GAP = 0.02  # |accuracy(train) - accuracy(tune)|, Makhlouf et al. 2022, Fig. 11


def page_templates(*folders: Path):
    """The templates of the pages, as a jinja2.Environment: texts are escaped, and a name that is not given is an error.

    `folders` hold templates beside those of the report.
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
    champion,
    gate: GateOptions,
    tune: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    """What the numbers mean for someone who wants to use the classifier, and what they do not say.

    `tune` has MCC on tune of the trainings that `best` was chosen from, by experiment and seed.
    """
    if best is None:
        return {"lines": [], "cautions": ["No training of this cube was evaluated on images it never saw."]}
    metrics = read_record(best / "metrics.json")
    row, baseline, data = metrics["headline"], metrics.get("baseline") or {}, metrics.get("data") or {}
    keys = run_keys(best)
    where = f"{count(row['n_images'])} images it never saw ({count(row['n_true'])} True, {count(row['n_false'])} False)"
    seeds = [t["headline"]["mcc"] for t in part["trainings"] if t["headline"] and _same_but_seed(t, keys)]
    is_champion = champion and (champion.get("experiment"), champion.get("seed")) == (
        keys["experiment"],
        str(keys["seed"]),
    )
    lines = [
        f"Best: {keys['experiment']}, seed {keys['seed']}, threshold {num(row['threshold'])} (set on tune)."
        f"{_choice(tune, keys, is_champion)} Scored on {where}.",
        f"It keeps {interval(row, 'recall', percent=True)} of the True and lets {interval(row, 'fpr', percent=True)} of the"
        f" False through; MCC {interval(row, 'mcc')}.",
        f"To miss no more than 1 % (5 %) of the True, it must let {interval(row, 'fpr_at_1pct_missed', percent=True)}"
        f" ({interval(row, 'fpr_at_5pct_missed', percent=True)}) of the False through.",
    ]
    alarms = f"That is {interval(row, 'false_alarms_per_image', digits=2)} false alarms per image"
    kept = number(data, "kept_false")
    lines.append(alarms + (f", counting that the cube holds {pct(kept, 0)} of all False." if kept < 1 else "."))
    if len(seeds) > 1:
        lines.append(
            f"Over {len(seeds)} seeds of {keys['experiment']}, MCC goes from {num(min(seeds))} to {num(max(seeds))}."
        )
    if np.isfinite(number(baseline, "mcc")):
        lines.append(f"A cut on S/N and FWHM alone reaches MCC {num(number(baseline, 'mcc'))} on the same images.")
    if purity := metrics.get("purity"):
        shares = "; ".join(f"{name}: {pct(value)}" for name, value in purity.items() if value is not None)
        lines.append(f"Share of real sources among what it accepts, by how many of the candidates are real: {shares}.")
    if is_champion:
        lines.append(f"Registered as {champion['model']}, version {champion['version']}, alias champion.")
    return {"lines": lines, "cautions": _cautions(part, metrics, row, gate)}


def _choice(tune: Mapping[tuple[str, int], float], keys: Mapping[str, Any], is_champion: bool) -> str:
    """How the best training was chosen, in a sentence; nothing where there was no choice."""
    if len(tune) < 2:
        return ""
    among = "those that pass the gate" if is_champion else f"{len(tune)} trainings"
    mine = num(tune.get((keys["experiment"], keys["seed"])))
    return f" Chosen by MCC on tune ({mine}), not on test, among {among}."


def _same_but_seed(training: Mapping[str, Any], keys: Mapping[str, Any]) -> bool:
    return all(training[name] == keys[name] for name in ("experiment", "protocol"))


def _cautions(
    part: Mapping[str, Any], metrics: Mapping[str, Any], row: Mapping[str, Any], gate: GateOptions
) -> list[str]:
    cautions = ["Every True is an injected point source: what is extended, trailed or moving was not tested."]
    if part["simulated"]:
        cautions.append("The images are simulated: these numbers say nothing about any real telescope.")
    if refusal(row, gate):
        cautions.append(
            f"The model does not pass the gate (MCC above {gate.min_mcc:g}, false positives at most"
            f" {pct(gate.max_fp, 0)} of the test set): it has no champion alias."
        )
    if row["n_images"] < FEW_IMAGES:
        cautions.append(f"The test set has {row['n_images']} images: intervals over so few images are rough.")
    gap = number(metrics.get("accuracy_gap") or {}, "train_minus_tune")
    if gap > WIDE_GAP:
        cautions.append(
            f"Accuracy on train is {pct(gap)} above that on tune: the model is over-trained, or has too few cutouts."
        )
    calibration = metrics.get("calibration") or {}
    if number(row, "ece") > 0.05:
        cautions.append(
            "A raw score is not a probability"
            f" (ECE {num(row['ece'])}; {num(number(calibration, 'ece_after'))} after calibration)."
        )
    failed = sum(image["status"] != "ok" for image in part["quality"])
    if failed:
        cautions.append(f"{failed} of {len(part['quality'])} images failed and are not in the cube; see Failures.")
    return cautions


def config_lines(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Dotted keys and values of a nested configuration."""
    lines = []
    for key, value in config.items():
        name = f"{prefix}{key}"
        lines += config_lines(value, f"{name}.") if isinstance(value, Mapping) else [(name, words(value))]
    return lines


def words(value: Any) -> str:
    """A value of the configuration or a name, in words."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None or value == "" else str(value)
