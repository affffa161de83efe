"""Group frames by field, and choose the reference of each field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count

import numpy as np

from otrain_core.plan.telescopes import HIPS
from otrain_core.project.look import Frame
from otrain_core.project.measure import Measured
from otrain_core.safe import safe_name

LEAST, MOST = 3, 15  # number of frames in a stack; with fewer, cosmic rays cannot be rejected
SHARE = 0.25  # fraction of the frames of a field to stack
PAUSE = 6.0  # gap between two nights [h]
NEAR = 0.5  # frames show the same field if their centres are closer than this fraction of their side
PANSTARRS_DEC = -30.0  # southern limit of Pan-STARRS [deg]
PANSTARRS = {"g": "g", "r": "r", "i": "i", "z": "z", "y": "y", "b": "g", "v": "g", "clear": "r", "l": "r", "lum": "r"}


@dataclass
class Field:
    """Frames of one field and filter.

    Attributes
    ----------
    name : str
    science : list of Frame
        Images to search.
    stacked : list of Frame
        Frames to stack into the reference.
    reference : str
        Path of an existing reference, or a survey; '' where the reference is stacked or missing.
    because : str
        Reason for this choice; where there is no reference, what to do.
    """

    name: str
    science: list[Frame] = field(default_factory=list)
    stacked: list[Frame] = field(default_factory=list)
    reference: str = ""
    because: str = ""

    @property
    def complete(self) -> bool:
        """Whether there are science frames and a reference for them."""
        return bool(self.science and (self.reference or self.stacked))


def group_fields(frames: Sequence[Frame], *, fallback: str) -> dict[str, list[Frame]]:
    """Group frames by field and filter: by their position on the sky, or else by the object in the header.

    Parameters
    ----------
    frames : sequence of Frame
        Frames of one telescope.
    fallback : str
        Name of a field whose frames have neither a position nor an object.

    Returns
    -------
    dict of str to list of Frame
        Frames by name of the field, ordered by time.
    """
    places: list[tuple[Frame, list[Frame]]] = []
    unplaced: dict[str, list[Frame]] = {}
    for frame in sorted(frames, key=lambda frame: (not frame.wcs, frame.time, frame.path)):
        if not np.isfinite(frame.ra):
            unplaced.setdefault(_plain(frame.object), []).append(frame)
            continue
        same = (group for first, group in places if _near(first, frame))
        group = next(same, None)
        if group is None:
            places.append((frame, group := []))
        group.append(frame)
    for name in list(unplaced):  # frames without a position join the field of the same object
        home = next((other for _, other in places if name and _plain(other[0].object) == name), None)
        if home is not None:
            home += unplaced.pop(name)
    named: dict[str, list[Frame]] = {}
    for group in [group for _, group in places] + list(unplaced.values()):
        filters = sorted({frame.filter for frame in group})
        for band in filters:
            name = _name(group, fallback) + (f"-{safe_name(band, fallback='clear')}" if len(filters) > 1 else "")
            numbered = (f"{name}-{number}" for number in count(len(named) + 1))
            free = next(choice for choice in chain([name], numbered) if choice not in named)
            named[free] = sorted(
                (frame for frame in group if frame.filter == band), key=lambda frame: (frame.time, frame.path)
            )
    return named


def _plain(text: str) -> str:
    """Name of an object without spaces, hyphens, underscores and capitals, for comparison."""
    return re.sub(r"[\s_-]+", "", text).lower()


def _near(first: Frame, frame: Frame) -> bool:
    """Whether two frames show the same field, see `NEAR`."""
    east = ((frame.ra - first.ra + 180) % 360 - 180) * np.cos(np.deg2rad(frame.dec))
    scale = first.scale if np.isfinite(first.scale) else 1.0
    return bool(np.hypot(east, frame.dec - first.dec) * 3600 < NEAR * max(first.shape) * scale)


def _name(group: Sequence[Frame], fallback: str) -> str:
    names = [frame.object for frame in group if frame.object]
    if names:
        return safe_name(max(sorted(set(names)), key=names.count), fallback=fallback)
    first = group[0]
    if np.isfinite(first.ra):
        return f"J{first.ra:.2f}{first.dec:+.2f}"
    return safe_name(fallback, fallback="field")


def propose(
    name: str, frames: Sequence[Frame], stacks: Sequence[Frame], measured: Mapping[str, Measured], *, alone: bool
) -> Field:
    """Choose the reference of a field.

    In order of preference: an existing stack, frames of earlier nights, the best frames of the only night, a survey.

    Parameters
    ----------
    name : str
    frames : sequence of Frame
        Frames of the field in one filter, ordered by time.
    stacks : sequence of Frame
        Existing stacks of the telescope.
    measured : mapping of str to Measured
        Measurements of some of the frames, by path.
    alone : bool
        Whether this is the only field of the telescope; then stacks without position and object belong to it.

    Returns
    -------
    Field
    """
    frames = list(frames)
    fitting = [stack for stack in stacks if _fits(stack, frames[0], alone)]
    if fitting:
        return Field(name, frames, reference=fitting[0].path, because=f"an existing stack ({fitting[0].why})")
    n = int(np.clip(round(SHARE * len(frames)), LEAST, MOST))
    *others, _ = nights_of(frames)  # transients are searched for in the last night
    pool: list[Frame] = []
    used = 0
    for night in sorted(others, key=lambda night: _seeing(night, measured)):
        if len(pool) < n:
            pool, used = pool + night, used + 1
    if len(pool) >= LEAST:
        pool = sorted(pool, key=lambda frame: (frame.time, frame.path))
        stacked = best_of(pool, min(len(pool), MOST, max(n, len(frames) // 2)), measured)
        nights = f"the night of {stacked[0].time[:10]}" + (f" and {used - 1} more" if used > 1 else "")
        because = f"frames of {nights}, before the last night{_fwhm_note(stacked, measured)}"
        return Field(name, _without(frames, stacked), stacked, because=because)
    if len(frames) > LEAST:
        parts = np.array_split(np.arange(len(frames)), n)
        stacked = [best_of([frames[k] for k in part], 1, measured)[0] for part in parts]
        because = f"the best frame of each of {n} parts of the night{_fwhm_note(stacked, measured)}"
        return Field(name, _without(frames, stacked), stacked, because=because)
    if len(frames) > 1:
        (best,) = best_of(frames, 1, measured)
        because = f"the best of {len(frames)} frames, too few to stack; its cosmic rays remain"
        return Field(name, _without(frames, [best]), reference=best.path, because=because)
    return _from_survey(name, frames)


def _fits(stack: Frame, frame: Frame, alone: bool) -> bool:
    """Whether a stack can be the reference of a frame: same filter and same field."""
    if stack.filter and frame.filter and stack.filter != frame.filter:
        return False
    if np.isfinite(stack.ra) and np.isfinite(frame.ra):
        return _near(frame, stack)
    return alone or bool(stack.object and _plain(stack.object) == _plain(frame.object))


def nights_of(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Split frames into nights at gaps of more than `PAUSE` hours; frames without a time go with the first night."""
    nights: list[list[Frame]] = []
    last = None
    for frame in sorted(frames, key=lambda frame: (frame.time, frame.path)):
        moment = np.datetime64(frame.time[:19]) if frame.time else None
        apart = moment is not None and last is not None and (moment - last) / np.timedelta64(1, "h") > PAUSE
        if not nights or apart:
            nights.append([])
        nights[-1].append(frame)
        last = moment if moment is not None else last
    return nights


def best_of(frames: Sequence[Frame], n: int, measured: Mapping[str, Measured]) -> list[Frame]:
    """The `n` frames with the best seeing and the most stars, in their order; frames not measured rank last."""
    looks = [measured.get(frame.path) for frame in frames]
    seeing = [look.fwhm if look and np.isfinite(look.fwhm) else np.inf for look in looks]
    fewest = [-look.stars if look else np.inf for look in looks]
    rank = _ranks(seeing) + _ranks(fewest) + np.where(np.isinf(seeing), 2 * len(looks), 0)
    return [frames[k] for k in sorted(np.argsort(rank, kind="stable")[:n])]


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1; equal values get their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _seeing(frames: Sequence[Frame], measured: Mapping[str, Measured]) -> float:
    """Median FWHM of frames [px]; infinite where none was measured."""
    found = [measured[frame.path].fwhm for frame in frames if frame.path in measured]
    found = [value for value in found if np.isfinite(value)]
    return float(np.median(found)) if found else np.inf


def _fwhm_note(frames: Sequence[Frame], measured: Mapping[str, Measured]) -> str:
    seeing = _seeing(frames, measured)
    return f" (FWHM {seeing:.1f} px)" if np.isfinite(seeing) else ""


def _without(frames: Sequence[Frame], others: Sequence[Frame]) -> list[Frame]:
    taken = {frame.path for frame in others}
    return [frame for frame in frames if frame.path not in taken]


def _from_survey(name: str, frames: list[Frame]) -> Field:
    """A reference from Pan-STARRS, where it covers the field and the frame has a WCS."""
    band = re.sub(r"[^a-z]", "", frames[0].filter.lower()).removeprefix("sdss").removesuffix("p")
    if frames[0].wcs and frames[0].dec > PANSTARRS_DEC:
        survey = f"{HIPS}CDS/P/PanSTARRS/DR1/{PANSTARRS.get(band, 'r')}"
        return Field(name, frames, reference=survey, because="only one frame (the survey needs the network)")
    why = "only one frame, and Pan-STARRS needs a WCS" if not frames[0].wcs else "only one frame, outside Pan-STARRS"
    return Field(name, frames, because=f"{why}; add frames, or a file *_reference.fits, and run otrain init again")
