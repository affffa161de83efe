"""Compare the candidates of a night with the training set of a classifier, and advise whether to retrain it.

The comparison counts images, not candidates: all candidates of an image share its seeing, so a night of two images
gives two values of the seeing, however many candidates they have. For a model of many telescopes it counts
telescopes: all images of a night are of one. Needs NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from otrain_core.classify.descriptors import DESCRIPTORS, MAD_OF_NOISE, WORDS, doubt, image_values, limits
from otrain_core.classify.shipped import NAME as SHIPPED
from otrain_core.errors import CubeError, OtrainError
from otrain_core.plan.pools import is_pool

FALSE_ALARMS = 0.01  # share of nights without a change that raise an alarm
# Name: share of these false alarms that the quantity may raise, and the smallest change that matters.
QUANTITIES = {
    "seeing": (0.4, 0.1),
    "psf_width": (0.1, 0.1),
    "noise": (0.1, 0.1),
    "background": (0.1, 0.0),
    "level": (0.1, 0.05),
    "missing": (0.1, 0.05),
    "doubt": (0.1, 0.02),
}
UNITS = {name: unit for name, (unit, _, _) in DESCRIPTORS.items()} | {"doubt": "of the decisions"}
MIN_IMAGES = 5  # of the training set; fewer do not show how images differ
POWER = 0.9  # share of nights in which the change stated as detectable is found
OUTSIDE = 0.05  # share of candidates beyond the range of the training set that asks for retraining
MOSTLY = 0.5  # share of candidates beyond that range that is reported even without an alarm
ONE_IMAGE = "(one image)"
FINE_TUNE = "fine-tune the shipped model with them (`otrain train --from universal`)"


@dataclass
class Comparison:
    """Comparison of one quantity between a night and the training set.

    Attributes
    ----------
    quantity, unit : str
    reference, night : float
        Median over images. That of the training set is the mean of the medians of its two classes.
    change : float
        Night / training set - 1 where ``ratio``, else night - training set.
    ratio : bool
    p : float
        Probability of a difference at least as large if nothing has changed; NaN where it was not tested.
    alarm : bool
    detectable : float
        Change that would raise an alarm in a share `POWER` of the nights with as many images and candidates.
    outside : float
        Share of the candidates beyond the range of the training set; NaN where the range is not known.
    n_images, n_reference : int
        Number of images with a value, of the night and of the training set.
    note : str
        Why the quantity was not tested.
    by_image : numpy.ndarray
        (n_images,) value of each image of the night.
    by_image_reference : dict
        Values of the images of the training set, by class.
    """

    quantity: str
    unit: str
    reference: float = np.nan
    night: float = np.nan
    change: float = np.nan
    ratio: bool = False
    p: float = np.nan
    alarm: bool = False
    detectable: float = np.nan
    outside: float = np.nan
    n_images: int = 0
    n_reference: int = 0
    note: str = ""
    by_image: np.ndarray = field(default_factory=lambda: np.empty(0))
    by_image_reference: dict[str, np.ndarray] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """All attributes except the values of single images."""
        return {key: value for key, value in asdict(self).items() if not key.startswith("by_image")}


def of_many_telescopes(about: Mapping[str, Any]) -> bool:
    """Whether a model was trained on a pool of telescopes, as the shipped model was.

    Parameters
    ----------
    about : mapping
        Of `otrain_core.classify.classifier.Classifier`.
    """
    telescope = str(about.get("telescope") or "")
    return telescope == SHIPPED or is_pool(telescope)


def compare_night(
    found: Mapping[str, np.ndarray],
    statistics: Mapping[str, Any],
    *,
    images: np.ndarray | None = None,
    false_alarms: float = FALSE_ALARMS,
    many_telescopes: bool = False,
) -> list[Comparison]:
    """Compare the candidates of a night with the training set of the model that scored them.

    Every quantity has one value per image (the median of its candidates; for ``doubt`` the mean). A t test with
    pooled variance compares the values of the night with those of the training set; the sampling error of a
    median of few candidates is added. The mix of classes in a night is not known, so an alarm needs a
    difference from both the True and the False candidates of the training set, in the same direction.
    `QUANTITIES` shares the false alarms among the quantities (Bonferroni). Their rate holds where the images of
    the night are as independent as those of the training set. Images of one night share its weather, so a
    training set of few nights raises more alarms.

    The images of a night are all of one telescope, so for a model of many telescopes they count as one draw from
    its training set. Only large changes can be significant then; more than `OUTSIDE` of the candidates beyond
    the range of the training set raise an alarm too.

    Parameters
    ----------
    found : mapping of arrays
        As from `otrain_core.classify.classifier.Classifier.classify`, each (N,).
    statistics : mapping
        ``training`` of the model.
    images : array, optional
        (N,) name of the image of each candidate; without it, candidates with the same seeing count as one image.
    false_alarms : float
        Share of nights without a change that raise an alarm.
    many_telescopes : bool
        The training set is of many telescopes, see `of_many_telescopes`.

    Returns
    -------
    list of Comparison
        One for each of `QUANTITIES`.

    Raises
    ------
    OtrainError
        There are no candidates, or the model lacks the values of the images of its training set.
    CubeError
        The number of names in `images` differs from the number of candidates.
    """
    n = len(found["score"])
    if n == 0:
        raise OtrainError("there are no candidates to compare")
    reference = statistics.get("images") or {}
    if not any(isinstance(values, Mapping) and values for values in reference.values()):
        raise OtrainError(
            "the model does not say what the images of its training set were like; write it again with "
            "`otrain models export FOLDER --cube CUBE`, from a cube that names its images"
        )
    images = image_names(images, found.get("seeing"), n)
    described = {name: np.asarray(found[name], dtype=float) for name in DESCRIPTORS if name in found}
    described["doubt"] = doubt(np.asarray(found["probability"], dtype=float))
    return [
        _compare(
            name,
            described.get(name, np.full(n, np.nan)),
            images,
            {key: np.asarray(values[name], float) for key, values in reference.items() if name in values},
            (statistics.get("quantiles") or {}).get(name),
            alpha=share * false_alarms,
            smallest=smallest,
            many_telescopes=many_telescopes,
        )
        for name, (share, smallest) in QUANTITIES.items()
    ]


def image_names(images: Any, seeing: np.ndarray | None, n: int) -> np.ndarray:
    """Image names of `n` candidates: those given, else one for each value of the seeing, else one for all."""
    if images is not None:
        images = np.asarray(images).astype(str)
        if images.shape != (n,):
            raise CubeError(f"images: {n} names are needed, found {images.shape}")
        if (images != "").all():
            return images
    widths = np.full(n, np.nan) if seeing is None else np.asarray(seeing, dtype=float)
    return np.where(np.isfinite(widths), np.char.mod("seeing %.9g px", widths), ONE_IMAGE)


def _compare(
    name: str,
    values: np.ndarray,
    images: np.ndarray,
    reference: dict[str, np.ndarray],
    quantiles: Sequence[float] | None,
    *,
    alpha: float,
    smallest: float,
    many_telescopes: bool,
) -> Comparison:
    """Compare one quantity, given for each candidate, with its values by class in `reference`."""
    ratio = DESCRIPTORS[name][1] if name in DESCRIPTORS else False
    result = Comparison(name, UNITS[name], ratio=ratio, by_image_reference=reference)
    known = np.isfinite(values) & ((values > 0) | (not ratio))
    reference = {key: part for key, part in reference.items() if len(part)}
    if reference:
        result.reference = float(np.mean([np.median(part) for part in reference.values()]))
        result.n_reference = max(len(part) for part in reference.values())
    if known.any():
        _, result.by_image = image_values(values, images, np.mean if name == "doubt" else np.median, known)
        result.night, result.n_images = float(np.median(result.by_image)), len(result.by_image)
        if quantiles is not None:
            low, high = limits(name, quantiles)
            result.outside = float(np.mean((values[known] < low) | (values[known] > high)))
    if not known.any() or not reference:
        result.note = "not known of the night" if reference else "not known of the training set"
        return result
    if result.n_reference < MIN_IMAGES:
        result.note = f"only {result.n_reference} images in the training set"
        return result
    # The scatter needs two images of a class, and a logarithm needs values above 0.
    reference = {key: part[part > 0] if ratio else part for key, part in reference.items()}
    reference = {key: part for key, part in reference.items() if len(part) > 1}
    if not reference:
        result.note = "not known of the training set"
        return result
    scale, back = (np.log, np.expm1) if ratio else (np.asarray, float)
    wanted = np.log1p(smallest) if ratio else smallest
    night = scale(result.by_image)
    if many_telescopes:
        night = night.mean(keepdims=True)
    noise = _variance_of_means(name, scale(np.where(known, values, 1.0)), images, known)
    tests = [_t_test(night, scale(part), noise, alpha) for part in reference.values()]
    differences = np.array([test[0] for test in tests])
    same_side = (np.sign(differences) == np.sign(differences[0])).all()
    nearest = differences[np.argmin(np.abs(differences))] if same_side else 0.0
    result.p = max(test[1] for test in tests) if same_side else 1.0
    result.change = float(back(nearest))
    result.detectable = float(back(max(max(test[2] for test in tests), wanted)))
    worse = nearest > 0 or name != "doubt"  # scores that are more certain are no reason for an alarm
    result.alarm = bool(result.p < alpha and abs(nearest) > wanted and worse)
    result.alarm |= many_telescopes and result.outside > OUTSIDE
    return result


def _variance_of_means(name: str, values: np.ndarray, images: np.ndarray, known: np.ndarray) -> float:
    """Variance of the mean over images that is due to the limited number of candidates in each image."""
    _, number = np.unique(images[known], return_counts=True)
    _, centre = image_values(values, images, np.median, known)
    names = np.unique(images[known].astype(str))
    residual = values[known] - centre[np.searchsorted(names, images[known].astype(str))]
    if name == "doubt":
        return float(np.mean(residual**2) * np.mean(1 / number) / len(number))
    scatter = MAD_OF_NOISE * np.median(np.abs(residual))
    return float(
        np.pi / 2 * scatter**2 * np.mean(1 / number) / len(number)
    )  # the variance of a median of normal values


def _t_test(night: np.ndarray, reference: np.ndarray, noise: float, alpha: float) -> tuple[float, float, float]:
    """Difference of the means, its two-sided p, and the difference that is found with the probability `POWER`."""
    n, m = len(reference), len(night)
    freedom = n + m - 2
    squares = np.sum((reference - reference.mean()) ** 2) + np.sum((night - night.mean()) ** 2)
    error = np.sqrt(squares / freedom * (1 / n + 1 / m) + noise)
    difference = float(night.mean() - reference.mean())
    if error == 0:
        return difference, float(difference == 0), 0.0
    angle = np.linspace(0, np.pi / 2, 5001)
    tail = tail_of_t(angle, freedom)
    p = float(np.interp(np.arctan(abs(difference) / error / np.sqrt(freedom)), angle, tail))
    needed = sum(np.sqrt(freedom) * np.tan(np.interp(-level, -tail, angle)) for level in (alpha, 2 * (1 - POWER)))
    return difference, p, float(needed * error)


def tail_of_t(angle: np.ndarray, freedom: int) -> np.ndarray:
    """Two-sided tail of Student's t beyond tan(angle) sqrt(freedom), for a grid of angles from 0 to pi/2.

    As a function of the angle the density is cos(angle)**(freedom - 1), so NumPy is enough.
    """
    density = np.cos(angle) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return 1 - area / area[-1]


def is_unlike(comparisons: Sequence[Comparison]) -> bool:
    """Whether a night is unlike the training set: any alarm, or most candidates outside its range."""
    return any(item.alarm or item.outside > MOSTLY for item in comparisons)


def advise(comparisons: Sequence[Comparison], *, n_images: int, many_telescopes: bool = False) -> str:
    """Advice in one or two sentences.

    Parameters
    ----------
    comparisons : sequence of Comparison
        As from `compare_night`.
    n_images : int
        Of the night.
    many_telescopes : bool
        As given to `compare_night`.
    """
    alarms = [item for item in comparisons if item.alarm]
    beyond = [item for item in comparisons if item.outside > MOSTLY]
    of_images = [item for item in comparisons if item.quantity in DESCRIPTORS]
    if not alarms and not any(np.isfinite(item.p) for item in of_images):
        known = max(item.n_reference for item in of_images)
        reason = f"only {known} images in the training set" if known < MIN_IMAGES else "no quantity is known of both"
        return f"It is not known whether the night has changed: {reason}.{_beyond(beyond)}"
    if many_telescopes:
        return _advise_many(alarms)
    if not alarms and beyond:
        return f"No alarm, but so few images can hardly raise one; look at the candidates.{_beyond(beyond)}"
    if not alarms:
        seeing = next((item for item in comparisons if item.quantity == "seeing"), None)
        if seeing is None or not seeing.detectable > 0.3:
            return "There is no reason to retrain the model."
        few = f"{n_images} image{'s' if n_images > 1 else ''}"
        return (
            f"There is no reason to retrain the model, but {few} would show only a change of the seeing above "
            f"{100 * seeing.detectable:.0f} %; add more images."
        )
    changes = ", ".join(describe_change(item) for item in alarms)
    if any(item.outside > OUTSIDE for item in alarms):
        return (
            f"Retrain the model with images of such nights: {changes}; "
            f"{_share(alarms)} are outside the range of the training set."
        )
    if any(item.quantity == "doubt" for item in alarms):
        return f"Label some candidates of this night and retrain the model: the scores are less certain ({changes})."
    return (
        f"The night is within the range of the training set, but differs from most of it: {changes}. "
        "Retrain the model if more nights are like this one."
    )


def _advise_many(alarms: Sequence[Comparison]) -> str:
    """Advice for a model of many telescopes, which images of one more telescope would hardly change."""
    changes = ", ".join(describe_change(item) for item in alarms)
    if any(item.outside > OUTSIDE for item in alarms):
        return (
            f"{_share(alarms)} are outside the range of the telescopes that the model was trained on ({changes}). "
            f"Label some of them, and {FINE_TUNE} if their scores are wrong."
        )
    if any(item.quantity == "doubt" for item in alarms):
        return (
            "The scores are less certain than for the telescopes that the model was trained on "
            f"({changes}). Label candidates of this telescope, and {FINE_TUNE}."
        )
    if alarms:
        return (
            f"This telescope differs from most of those that the model was trained on ({changes}). "
            f"Label some candidates, and {FINE_TUNE} if their scores are wrong."
        )
    return (
        "This telescope is like those that the model was trained on. Only large changes are seen: a model "
        "fine-tuned on labels of this telescope (`otrain train --from universal`) shows smaller ones."
    )


def _beyond(items: Sequence[Comparison]) -> str:
    values = ", ".join(_measured(item) for item in items)
    return f" Most candidates are outside the range of the training set: {values}." if items else ""


def describe_change(item: Comparison) -> str:
    """``seeing 3.2 px (+30 %)``"""
    change = f"{100 * item.change:+.0f} %" if item.ratio else f"{item.change:+.2g}"
    return f"{_measured(item)} ({change})"


def _measured(item: Comparison) -> str:
    return f"{WORDS.get(item.quantity, item.quantity)} {item.night:.3g} {item.unit}"


def _share(alarms: Sequence[Comparison]) -> str:
    return f"{100 * max(item.outside for item in alarms if np.isfinite(item.outside)):.0f} % of the candidates"


def as_text(comparisons: Sequence[Comparison]) -> str:
    """The table that the command prints."""
    columns = ("quantity", "unit", "training", "night", "change", "p", "detectable", "outside", "alarm")
    rows = [columns, *(_cells(item) for item in comparisons)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _cells(item: Comparison) -> tuple[str, ...]:
    def number(value: float, *, change: bool = False) -> str:
        if not np.isfinite(value):
            return "-"
        text = f"{100 * value:+.0f} %" if change and item.ratio else f"{value:{'+' if change else ''}.3g}"
        return "+0 %" if text == "-0 %" else text

    p = "-" if not np.isfinite(item.p) else f"{item.p:.3f}" if item.p >= 0.001 else f"{item.p:.0e}"
    return (
        item.quantity,
        item.unit,
        number(item.reference),
        number(item.night),
        number(item.change, change=True),
        p,
        number(item.detectable, change=True).replace("+", "\u00b1" if item.quantity != "doubt" else "+"),
        "-" if not np.isfinite(item.outside) else f"{100 * item.outside:.0f} %",
        "ALARM" if item.alarm else item.note,
    )
