"""The page of a night, and the index over nights: static HTML beside the files that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.classify.descriptors import DESCRIPTORS
from otrain_core.errors import OtrainError
from otrain_core.io import atomic
from otrain_core.night.ledger import Ledger

SHOWN = 60  # objects on a page
CURVE = (220, 60)  # a light curve [px]


def write_page(folder: Path, night: str, ledger: Ledger, *, about: Mapping[str, Any], false_alarms: float) -> None:
    """Write ``index.html`` of a night: its objects, its images, and whether it is like the training set."""
    images, objects = ledger.images(night), night_objects(ledger.detections(night))
    verdict = monitor_verdict(folder, images, about.get("training") or {}, false_alarms=false_alarms)
    _write(
        folder / "index.html",
        "night.html",
        night=night,
        images=images,
        objects=objects[:SHOWN],
        n_objects=len(objects),
        verdict=verdict,
        model={key: about.get(key) for key in ("telescope", "pipeline", "experiment", "seed")},
    )


def write_index(output: Path, ledger: Ledger) -> None:
    """Write ``index.html`` over all nights, with the images that were refused."""
    refused = [image for image in ledger.images() if image["status"] == "refused"]
    _write(output / "index.html", "nights.html", nights=ledger.nights(), refused=refused[::-1])


def _write(path: Path, template: str, **values: Any) -> None:
    from otrain_core.report.text import page_templates

    page = page_templates(Path(__file__).with_name("templates")).get_template(template).render(**values)
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def night_objects(detections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Detections grouped by object, best first.

    An object of several images counts before one of a single image, then the highest probability decides. A detection
    without a sky position is an object of its own.

    Returns
    -------
    list of dict
        best (the detection of highest probability), detections, n_images, curve (SVG path points or ''), fixed (bool:
        the same pixel of the detector while the sky moved: a hot pixel, not a source).
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for item in detections:
        groups.setdefault(item["object"] or (item["image"], item["candid"]), []).append(item)
    fixed = _fixed_places(detections)
    objects = []
    for items in groups.values():
        best = max(items, key=lambda item: item["probability"])
        objects.append(
            {
                "best": best,
                "detections": items,
                "n_images": len({item["image"] for item in items}),
                "curve": light_curve(items),
                "fixed": any((item["image"], item["candid"]) in fixed for item in items),
            }
        )
    order = {"real": lambda entry: bool(entry["best"]["real"]) and not entry["best"]["undecided"]}
    return sorted(
        objects,
        key=lambda entry: (entry["fixed"], not order["real"](entry), -entry["n_images"], -entry["best"]["probability"]),
    )


def _fixed_places(detections: Sequence[Mapping[str, Any]], *, pixels: float = 1.0) -> set[tuple[int, str]]:
    """Detections at one place of the detector in several images that are different places of the sky."""
    fixed: set[tuple[int, str]] = set()
    if len(detections) < 2:
        return fixed
    from scipy.spatial import cKDTree

    places = np.array([[item["x"], item["y"]] for item in detections])
    for first, second in cKDTree(places).query_pairs(pixels):
        a, b = detections[first], detections[second]
        known = a["object"] is not None and b["object"] is not None
        if known and a["image"] != b["image"] and a["object"] != b["object"]:
            fixed |= {(a["image"], a["candid"]), (b["image"], b["candid"])}
    return fixed


def light_curve(items: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, str]]:
    """Points (x, y, words) of a small light curve, brighter above, in order of time; empty below two magnitudes."""
    from datetime import datetime

    points = []
    for item in items:
        try:
            moment = datetime.fromisoformat(item["time"]).timestamp()
        except ValueError:
            continue
        if item["mag"] is not None:
            points.append((moment, float(item["mag"]), item["time"]))
    if len(points) < 2:
        return []
    times, mags = np.array([point[0] for point in points]), np.array([point[1] for point in points])
    width, height = CURVE
    x = 6 + (width - 12) * (times - times.min()) / max(np.ptp(times), 1e-9)
    y = 6 + (height - 12) * (mags - mags.min()) / max(np.ptp(mags), 0.05)
    words = [f"{point[2]}: {point[1]:.2f} mag" for point in points]
    return [(round(float(a), 1), round(float(b), 1), text) for a, b, text in zip(x, y, words, strict=True)]


def monitor_verdict(
    folder: Path, images: Sequence[Mapping[str, Any]], training: Mapping[str, Any], *, false_alarms: float
) -> str:
    """What `otrain monitor` says of the night so far, in a sentence."""
    from otrain_core.classify.monitor import advise, compare_night

    names = ("score", "probability", *DESCRIPTORS)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    labels: list[np.ndarray] = []
    for image in images:
        table = _scores(folder / f"{image['name']}.csv")
        if table is None or not len(table["score"]):
            continue
        labels.append(np.full(len(table["score"]), image["name"]))
        for name in names:
            parts[name].append(table[name])
    if not labels:
        return "No candidates yet: whether the night is like the training set cannot be told."
    found = {name: np.concatenate(values) for name, values in parts.items()}
    try:
        comparisons = compare_night(found, training, images=np.concatenate(labels), false_alarms=false_alarms)
    except OtrainError as error:
        return f"Whether the night is like the training set cannot be told: {error}"
    return advise(comparisons, n_images=max(item.n_images for item in comparisons))


def _scores(path: Path) -> dict[str, np.ndarray] | None:
    import csv

    if not path.is_file():
        return None
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("score", "probability", *DESCRIPTORS)
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
