"""The verb ``monitor`` of the command ``otrain``: a night beside the training set, and when to train anew."""

from __future__ import annotations

import csv
import sys
from argparse import Namespace
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.classify.descriptors import DESCRIPTORS
from otrain_core.classify.monitor import MOSTLY, Comparison, advise, as_text, compare_night
from otrain_core.cli.classify import Skipped, candidates, load_classifier
from otrain_core.errors import ConfigError

# Exit status: the night is unlike the training set; whether it is cannot be told.
ALARM, UNKNOWN = 3, 4


def monitor(arguments: Namespace) -> tuple[int, Any, str]:
    """Compare candidates with the training set: exit status, record for --json, and text."""
    from otrain_core.figures.night import NightDisplay

    classifier = load_classifier(arguments)
    statistics = classifier.about.get("training") or {}
    parts, images = [], []
    for columns, found in _scored(arguments, classifier):
        parts.append(found)
        names = columns.get("image")
        images.append(np.full(len(found["score"]), "") if names is None else np.asarray(names).astype(str))
    found = (
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {"score": np.empty(0)}
    )
    named = np.concatenate(images) if parts else None
    if not len(found["score"]):
        text = "no candidates: whether the night is like the training set cannot be told"
        return UNKNOWN, {"n": 0, "n_images": 0, "alarm": False, "advice": text}, text
    comparisons = compare_night(found, statistics, images=named, false_alarms=arguments.false_alarms)
    n, n_images = len(found["score"]), max(item.n_images for item in comparisons)
    advice, status = advise(comparisons, n_images=n_images), _status(comparisons)
    about = {key: classifier.about.get(key) for key in ("telescope", "pipeline", "experiment", "seed", "commit")}
    record = {
        "model": about,
        "n": n,
        "n_images": n_images,
        "n_training": statistics.get("n"),
        "false_alarms": arguments.false_alarms,
        "alarm": status == ALARM,
        "advice": advice,
        "quantities": [item.record() for item in comparisons],
    }
    counted = f"{n} candidates of {n_images} image{'' if n_images == 1 else 's'}"
    if arguments.output:
        from otrain_core.figures.canvas import save_figure

        title = f"{about['telescope'] or 'training set'}: {counted}"
        save_figure(arguments.output, NightDisplay(comparisons, statistics.get("quantiles") or {}).plot(title))
        record["figure"] = arguments.output
    text = f"{counted}, compared with {statistics.get('n')} of {about['telescope'] or 'the training set'}\n"
    return status, record, f"{text}{as_text(comparisons)}\n{advice}"


def _status(comparisons: Sequence[Comparison]) -> int:
    """Exit status. Candidates mostly beyond the training set count as an alarm also where nothing can be tested."""
    if any(item.alarm or item.outside > MOSTLY for item in comparisons):
        return ALARM
    return 0 if any(np.isfinite(item.p) for item in comparisons if item.quantity in DESCRIPTORS) else UNKNOWN


def _scored(arguments: Namespace, classifier: Any) -> Iterator[tuple[Mapping[str, Any], dict[str, np.ndarray]]]:
    """Blocks of candidates: the columns that name them, and what the classifier finds of them."""
    tables = [path for path in arguments.inputs if Path(path).suffix.lower() == ".csv"]
    for path in tables:
        columns = _read_scores(Path(path))
        yield columns, {name: columns[name] for name in ("score", "probability", *DESCRIPTORS)}
    rest = [path for path in arguments.inputs if path not in tables]
    if rest:
        done = 0
        for columns, cutouts in candidates(
            Namespace(**(vars(arguments) | {"inputs": rest})), classifier.size, Skipped()
        ):
            found = classifier.classify(cutouts)
            done += len(found["score"])
            if not arguments.quiet and sys.stderr.isatty():
                print(f"\r{done} candidates ", end="", file=sys.stderr, flush=True)
            yield columns, {name: found[name] for name in ("score", "probability", *DESCRIPTORS)}


def _read_scores(path: Path) -> dict[str, np.ndarray]:
    """A table written by ``otrain classify``.

    Raises
    ------
    ConfigError
        No such file, another table, or a cell that is no number.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    needed = ("score", "probability", *DESCRIPTORS)
    numbers = {name: array("d") for name in needed}
    images: list[str] = []
    try:
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            if lacking := [name for name in needed if name not in names]:
                raise ConfigError(f"{path}: not a table of `otrain classify`: no column {', '.join(lacking)}")
            for row in reader:
                for name in needed:
                    numbers[name].append(float(row[name] or "nan"))
                images.append(row.get("image") or "")
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable table ({error})") from None
    except (TypeError, ValueError):
        raise ConfigError(f"{path}: column {name}: numbers are needed, row {len(images) + 1}") from None
    return {name: np.array(values) for name, values in numbers.items()} | {"image": np.array(images, dtype=str)}
