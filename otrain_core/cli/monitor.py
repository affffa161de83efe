"""The verb ``monitor`` of the command ``otrain``: compare a night with the training set."""

from __future__ import annotations

import csv
import sys
from argparse import Namespace
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.classify.descriptors import DESCRIPTORS, at_edge
from otrain_core.classify.monitor import Comparison, advise, as_text, compare_night, is_unlike, of_many_telescopes
from otrain_core.cli.classify import Skipped, candidates, load_classifier
from otrain_core.errors import ConfigError

# Exit status: the night is unlike the training set; it is not known whether it is.
ALARM, UNKNOWN = 3, 4
NUMBERS = ("score", "probability", *DESCRIPTORS)  # columns that are compared


def monitor(arguments: Namespace) -> tuple[int, Any, str]:
    """Compare candidates with the training set.

    Candidates at the edge of their image are left out, as they are from training sets.

    Returns
    -------
    tuple
        Exit status, record for ``--json``, and text.
    """
    from otrain_core.figures.night import NightDisplay

    classifier = load_classifier(arguments)
    statistics = classifier.about.get("training") or {}
    many = of_many_telescopes(classifier.about)
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
        text = "no candidates: it is not known whether the night is like the training set"
        return UNKNOWN, {"n": 0, "n_images": 0, "alarm": False, "advice": text}, text
    comparisons = compare_night(
        found, statistics, images=named, false_alarms=arguments.false_alarms, many_telescopes=many
    )
    n, n_images = len(found["score"]), max(item.n_images for item in comparisons)
    advice, status = advise(comparisons, n_images=n_images, many_telescopes=many), _status(comparisons)
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
    if is_unlike(comparisons):
        return ALARM
    return 0 if any(np.isfinite(item.p) for item in comparisons if item.quantity in DESCRIPTORS) else UNKNOWN


def _scored(arguments: Namespace, classifier: Any) -> Iterator[tuple[Mapping[str, Any], dict[str, np.ndarray]]]:
    """Blocks of candidates that are not at an edge: the columns that name them, and their scores and descriptors."""
    tables = [path for path in arguments.inputs if Path(path).suffix.lower() == ".csv"]
    for path in tables:
        columns = _read_scores(Path(path))
        yield columns, {name: columns[name] for name in NUMBERS}
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
            names = columns.get("image")
            kept = ~np.asarray(columns.get("edge", np.zeros(len(found["score"]))), dtype=bool)
            about = {} if names is None else {"image": np.asarray(names)[kept]}
            yield about, {name: found[name][kept] for name in NUMBERS}


def _read_scores(path: Path) -> dict[str, np.ndarray]:
    """Read a table that ``otrain classify`` wrote, without the candidates at an edge.

    Raises
    ------
    ConfigError
        The file does not exist, lacks a column, or has a cell that is not a number.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    numbers = {name: array("d") for name in NUMBERS}
    images: list[str] = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            if lacking := [name for name in NUMBERS if name not in names]:
                raise ConfigError(f"{path}: not a table of `otrain classify`: it has no column {', '.join(lacking)}")
            for row in reader:
                if at_edge(row):
                    continue
                for name in NUMBERS:
                    numbers[name].append(float(row[name] or "nan"))
                images.append(row.get("image") or "")
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable table ({error})") from None
    except (TypeError, ValueError):
        raise ConfigError(f"{path}, line {reader.line_num}: column {name} must be a number") from None
    return {name: np.array(values) for name, values in numbers.items()} | {"image": np.array(images, dtype=str)}
