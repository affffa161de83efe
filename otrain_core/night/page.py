"""Write the page of a night and the index of all nights as static HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.classify.descriptors import DESCRIPTORS, at_edge
from otrain_core.errors import OtrainError
from otrain_core.evaluation.words import num, several
from otrain_core.io import atomic
from otrain_core.night.context import certainty, covers, detections_of, is_fixed, mjd
from otrain_core.night.ledger import Ledger, with_more
from otrain_core.plan.pools import DRAWN

SHOWN = 60  # number of objects on a page
CURVE = (230, 80)  # width and height of a light curve [px]


def write_page(
    folder: Path,
    night: str,
    ledger: Ledger,
    *,
    about: Mapping[str, Any],
    false_alarms: float,
) -> None:
    """Write ``index.html`` of a night: its objects, its images, and a comparison with the training set.

    Parameters
    ----------
    folder : Path
        Folder of the night.
    night : str
    ledger : Ledger
    about : mapping
        `Classifier.about`.
    false_alarms : float
        Share of unchanged nights that the monitor may call changed.
    """
    images = ledger.images(night)
    objects = night_objects(detections_of(ledger, night, plain=True, coverage=False))
    shown = objects[:SHOWN]
    for entry, covered in zip(shown, _covered(shown, images), strict=True):
        entry["best"] = with_more(entry["best"])
        entry["n_covered"] = max(entry["n_images"], len(covered))
        entry["curve"] = light_curve(entry["detections"], covered)
        entry["stamp"] = _stamp(folder, entry["detections"])
    verdict, unlike = monitor_verdict(folder, images, about, false_alarms=false_alarms)
    _write(
        folder / "index.html",
        "night.html",
        night=night,
        images=images,
        objects=shown,
        groups=_groups(shown),
        n_objects=len(objects),
        n_several=sum(entry["n_real"] > 1 and not entry["fixed"] for entry in objects),
        n_once=sum(entry["n_real"] == 1 and not entry["fixed"] for entry in objects),
        verdict=verdict,
        unlike=unlike,
        size=CURVE,
        model=_model_words(about),
    )


def write_index(output: Path, ledger: Ledger) -> None:
    """Write ``index.html`` with all nights, the refused images and the frames that were left out."""
    unused = [image | _why(image) for image in ledger.images()[::-1] if image["status"] == "refused"]
    left_out = [image for image in unused if image["record"].get("kind")]
    refused = [image for image in unused if not image["record"].get("kind")]
    kinds = Counter(image["record"]["kind"] for image in left_out)
    _write(
        output / "index.html",
        "nights.html",
        nights=ledger.nights(),
        refused=refused,
        left_out=left_out,
        kinds=", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())),
    )


def _model_words(about: Mapping[str, Any]) -> str:
    """The model of a night in words."""
    drawn = f"{about.get('telescope')}/{about.get('pipeline')}" == DRAWN
    parts = ["trained on simulated telescopes drawn at random" if drawn else about.get("telescope") or "unnamed"]
    parts += [str(about["experiment"])] if about.get("experiment") else []
    parts += [f"seed {about['seed']}"] if about.get("seed") is not None else []
    return ", ".join(parts)


def _why(image: Mapping[str, Any]) -> dict[str, str]:
    """File name of an unused image, and the reason without the path, which the page shows next to it."""
    reason = image["reason"].replace(f"{image['path']}: ", "").removeprefix(f"image {image['name']}: ")
    return {"file": Path(image["path"]).name, "reason": reason.removeprefix("path: ")}


def _write(path: Path, template: str, **values: Any) -> None:
    from otrain_core.report.text import page_templates

    environment = page_templates(Path(__file__).with_name("templates"))
    environment.filters |= {"num": num, "several": several}
    page = environment.get_template(template).render(**values)
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def night_objects(detections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Detections grouped by object, best object first.

    Objects called real in several images come before those called real in one, then the highest probability decides.
    Objects fixed on the detector come last. A detection without a sky position is an object of its own.

    Parameters
    ----------
    detections : sequence of mapping
        See `otrain_core.night.context.detections_of`.

    Returns
    -------
    list of dict
        best (the detection with the highest probability), detections, n_images, n_real (images in which it is called
        real), fixed (whether it is fixed on the detector, such as a hot pixel).
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for item in detections:
        groups.setdefault(item["object"] or (item["image"], item["candid"]), []).append(item)
    objects = []
    for items in groups.values():
        best = max(items, key=certainty)
        objects.append(
            {
                "best": best,
                "detections": items,
                "n_images": len({item["image"] for item in items}),
                "n_real": len({item["image"] for item in items if item["real"] and not item["undecided"]}),
                "fixed": any(is_fixed(item) for item in items),
            }
        )
    return sorted(
        objects,
        key=lambda entry: (
            entry["fixed"],
            -min(entry["n_real"], 2),
            -entry["n_real"],
            -entry["n_images"],
            -certainty(entry["best"]),
        ),
    )


def _groups(objects: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Objects of `night_objects` under the headings of the page, in the same order."""
    titles = (
        "Called real in two or more images",
        "Called real in one image",
        "Undecided",
        "Called bogus",
        "Fixed on the detector",
    )
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in titles}
    for entry in objects:
        not_real = 2 if entry["best"]["undecided"] else 3
        place = 4 if entry["fixed"] else 2 - min(entry["n_real"], 2) if entry["n_real"] else not_real
        groups[titles[place]].append(entry)
    return list(groups.items())


def _stamp(folder: Path, items: Sequence[Mapping[str, Any]]) -> str | None:
    """Name of the most probable candidate whose stamps are kept; None if no stamps are kept."""
    best = sorted(items, key=certainty, reverse=True)
    return next((item["candid"] for item in best if (folder / "stamps" / f"{item['candid']}.png").is_file()), None)


def _covered(
    objects: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]
) -> list[list[Mapping[str, Any]]]:
    """For each object, the images that show its position."""
    first = [entry["detections"][0] for entry in objects]
    ra, dec = (np.array([item["object_" + name] for item in first], float) for name in ("ra", "dec"))
    seen = [covers(image["record"], ra, dec) for image in images]
    return [[image for image, shows in zip(images, seen, strict=True) if shows[k]] for k in range(len(objects))]


def light_curve(items: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Coordinates of a small light curve, bright magnitudes at the top.

    Parameters
    ----------
    items : sequence of mapping
        Detections of one object.
    images : sequence of mapping
        Images that show the position of the object. An image without a detection gives an upper limit.

    Returns
    -------
    dict or None
        points (x, y, half length of the error bar [px], text), limits (x, y [px], text), and the labels of the axes
        bright, faint, start and end. None without a detection, or with fewer than two points and limits in total; those
        without a time or magnitude do not count.
    """
    seen = [(mjd(item["time"]), item["mag"], item["magerr"] or 0.0, item["time"]) for item in items]
    missed, detected = [], {item["image"] for item in items}
    for image in images:
        record = image["record"]
        if image["number"] not in detected and record.get("limit_mag") is not None:
            missed.append((mjd(record.get("time")), record["limit_mag"], 0.0, record.get("time")))
    seen, missed = ([row for row in rows if np.isfinite(row[0]) and row[1] is not None] for rows in (seen, missed))
    if not seen or len(seen) + len(missed) < 2:
        return None
    times, mags, errors = (np.array([row[k] for row in seen + missed], float) for k in (0, 1, 2))
    width, height = CURVE
    errors = np.minimum(errors, 1.0)  # so that one long error bar does not compress the axis
    bright, faint = float((mags - errors).min()), float((mags + errors).max())
    spare = max(0.1 - (faint - bright), 0.0) / 2
    bright, faint = bright - spare, faint + spare
    scale = (height - 14) / (faint - bright)
    x = np.round(7 + (width - 14) * (times - times.min()) / max(np.ptp(times), 1e-9), 1).tolist()
    y = np.round(7 + scale * (mags - bright), 1).tolist()
    rows = list(zip(x, y, seen + missed, strict=True))
    first, last = (seen + missed)[int(times.argmin())][3], (seen + missed)[int(times.argmax())][3]
    return {
        "points": [
            (a, b, round(min(scale * row[2], height), 1), f"{row[3]}: {row[1]:.2f} +- {row[2]:.2f} mag")
            for a, b, row in rows[: len(seen)]
        ],
        "limits": [(a, b, f"{row[3]}: not found, limit {row[1]:.2f} mag") for a, b, row in rows[len(seen) :]],
        "bright": f"{bright:.2f}",
        "faint": f"{faint:.2f}",
        "start": first[11:16],
        "end": last[11:16],
    }


def monitor_verdict(
    folder: Path, images: Sequence[Mapping[str, Any]], about: Mapping[str, Any], *, false_alarms: float
) -> tuple[str, bool]:
    """What `otrain monitor` says about the night so far, and whether the night is unlike the training set."""
    from otrain_core.classify.monitor import advise, compare_night, is_unlike, of_many_telescopes

    names = ("score", "probability", *DESCRIPTORS)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    labels: list[np.ndarray] = []
    for image in images:
        path = folder / f"{image['name']}.csv"
        table = _scores(path, path.stat().st_mtime_ns) if path.is_file() else None
        if table is None or not len(table["score"]):
            continue
        labels.append(np.full(len(table["score"]), image["name"]))
        for name in names:
            parts[name].append(table[name])
    if not labels:
        return "No candidates yet, so the night cannot be compared with the training set.", False
    found = {name: np.concatenate(values) for name, values in parts.items()}
    many = of_many_telescopes(about)
    try:
        comparisons = compare_night(
            found,
            about.get("training") or {},
            images=np.concatenate(labels),
            false_alarms=false_alarms,
            many_telescopes=many,
        )
    except OtrainError as error:
        return f"The night cannot be compared with the training set: {error}", False
    n_images = max(item.n_images for item in comparisons)
    return advise(comparisons, n_images=n_images, many_telescopes=many), is_unlike(comparisons)


@lru_cache(maxsize=5000)  # the page is written many times during a night
def _scores(path: Path, changed: int) -> dict[str, np.ndarray]:
    """The columns of a table of scores that the monitor reads; `changed` is the time of modification."""
    import csv

    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if not at_edge(row)]
    names = ("score", "probability", *DESCRIPTORS)
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
