"""Find duplicate cutouts. If copies of a cutout are in several sets, a classifier is tested on its training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from otrain_core.widths import SIGMA_PER_MAD

SHIFT = 4  # largest shift between two copies [px]
SMALLEST = 9  # smallest side of the part that is compared after a shift [px]
PROJECTIONS = 8  # number of random projections that preselect pairs
NEAR = 0.1  # largest distance of preselected pairs in the projections; about 4 for independent noise
# For copies, 90 % of the normalised pixels differ by less than this; for independent noise, by up to 2.3.
SAME = 0.01
FEW = 512  # number of cutouts or pairs in memory at a time
NEIGHBOURS = 5  # number of nearest neighbours that each cutout is compared with


def find_copies(read: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """Find groups of cutouts with the same pixels.

    Two cutouts are copies if their difference images agree pixel by pixel after subtraction of the median and
    division by the robust noise. So a copy may be rescaled and have another background. Cutouts of different images
    are also compared around their brightest pixel, which finds copies that are shifted by up to `SHIFT` px. Rotated
    and mirrored copies are not found.

    Parameters
    ----------
    read : callable
        Returns the difference images, float (n, H, W), of the cutouts with the given indices.
    images : numpy.ndarray
        (N,) image of each cutout.

    Returns
    -------
    numpy.ndarray
        (N,) int, number of the group; -1 for cutouts without copies and for constant cutouts.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(images)
    whole, centred, side = [], [], 0
    for start in range(0, n, FEW):
        block = read(np.arange(start, min(start + FEW, n)))
        side = min(block.shape[1:])
        whole.append(_projected(_normalised(block)))
        centred.append(_projected(_normalised(_about_peak(block))))
    pairs = [_same(read, _near_pairs(whole), centre=False)]
    if 2 * _half(side) + 1 >= SMALLEST:
        shifted = _near_pairs(centred)
        pairs.append(_same(read, shifted[images[shifted[:, 0]] != images[shifted[:, 1]]], centre=True))
    found = np.concatenate(pairs)
    graph = coo_matrix((np.ones(len(found)), (found[:, 0], found[:, 1])), shape=(n, n))
    group = connected_components(graph, directed=False)[1] if n else np.zeros(0, int)
    alone = np.bincount(group, minlength=1)[group] < 2
    return np.where(alone, -1, group)


def leave_out_copies(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which cutouts to keep, bool (N,): the first of each group, or none if the labels of the group disagree."""
    keep = groups < 0
    for number in np.unique(groups[~keep]):
        mine = np.flatnonzero(groups == number)
        keep[mine[0]] = len(np.unique(labels[mine])) == 1
    return keep


def count_copies(groups: np.ndarray, *, labels: np.ndarray, images: np.ndarray, candids: np.ndarray) -> dict[str, Any]:
    """Counts of the duplicate cutouts, and examples.

    Parameters
    ----------
    groups : numpy.ndarray
        (N,) as from `find_copies`.
    labels, images, candids : numpy.ndarray
        (N,) columns of the cutouts.

    Returns
    -------
    dict
        n_copies (cutouts in groups), n_groups, n_across_images (cutouts in groups with several images),
        n_both_labels (cutouts in groups with both labels), examples (candids of at most three groups).
    """
    record: dict[str, Any] = {"n_copies": int((groups >= 0).sum()), "n_groups": 0}
    record |= {"n_across_images": 0, "n_both_labels": 0, "examples": []}
    for number in np.unique(groups[groups >= 0]):
        mine = groups == number
        record["n_groups"] += 1
        record["n_across_images"] += int(mine.sum()) if len(np.unique(images[mine])) > 1 else 0
        record["n_both_labels"] += int(mine.sum()) if len(np.unique(labels[mine])) > 1 else 0
        if len(record["examples"]) < 3:
            record["examples"].append([str(name) for name in candids[mine][:4]])
    return record


def copies_of_cube(cube: Mapping[str, np.ndarray]) -> np.ndarray:
    """Groups of duplicate cutouts in a cube, see `find_copies`."""
    channels = [str(name) for name in cube["channels"]]
    index = channels.index("difference") if "difference" in channels else 0
    n = len(cube["labels"])
    images = np.asarray(cube["images"]).astype(str) if "images" in cube else np.full(n, "")
    return find_copies(lambda rows: cube["cube"][rows][..., index], images)


def drop_copies(cube: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Remove the duplicate cutouts of a cube.

    Parameters
    ----------
    cube : mapping of arrays
        As from `otrain_core.cubes.cube_format.read_cube`.

    Returns
    -------
    cube : dict
        The cube without duplicates; the same arrays if it has none.
    record : dict
        As from `count_copies`, and n_left_out.
    """
    labels, n = np.asarray(cube["labels"]), len(cube["labels"])
    images = np.asarray(cube["images"]).astype(str) if "images" in cube else np.full(n, "")
    groups = copies_of_cube(cube)
    keep = leave_out_copies(groups, labels)
    record = count_copies(groups, labels=labels, images=images, candids=np.asarray(cube["candids"]))
    record["n_left_out"] = int((~keep).sum())
    if keep.all():
        return dict(cube), record
    rows = np.flatnonzero(keep)
    kept = {key: value[rows] for key, value in cube.items() if key != "channels" and value.shape[:1] == (n,)}
    return dict(cube) | kept, record


def tell_copies(record: Mapping[str, Any], n: int) -> str:
    """The counts from `count_copies` for `n` cutouts as a sentence; '' without copies."""
    if not record["n_copies"]:
        return ""
    both = f", {record['n_both_labels']} of them with both labels" if record["n_both_labels"] else ""
    names = " = ".join(record["examples"][0])
    return f"{record['n_copies']} of {n} cutouts have the same pixels as another one{both} (for example {names})"


def _normalised(block: np.ndarray) -> np.ndarray:
    """Normalised pixels, float32: the median is subtracted, then they are divided by the robust noise.

    Missing pixels are 0; constant cutouts are NaN.
    """
    values = np.where(np.isfinite(block), block, np.nan).astype(np.float32)
    if values.size == 0:
        return values
    void = np.isnan(values).all(axis=(1, 2))
    values[void] = 0
    values -= np.nanmedian(values, axis=(1, 2), keepdims=True)
    noise = SIGMA_PER_MAD * np.nanmedian(np.abs(values), axis=(1, 2), keepdims=True)
    normal = np.nan_to_num(values) / np.where(noise > 0, noise, np.nan)
    # The logarithmic scale beyond a few sigma limits the weight of bright sources, which all look alike.
    return np.arcsinh(normal).astype(np.float32)


def _about_peak(block: np.ndarray) -> np.ndarray:
    """The part around the most extreme pixel near the centre; shape (n, 0, 0) if the cutouts are too small."""
    side = min(block.shape[1:])
    half = _half(side)
    if 2 * half + 1 < SMALLEST:
        return block[:, :0, :0]
    centre, reach = side // 2, np.arange(-SHIFT, SHIFT + 1)
    window = np.abs(_normalised(block)[:, centre - SHIFT : centre + SHIFT + 1, centre - SHIFT : centre + SHIFT + 1])
    peak = np.nan_to_num(window, nan=0).reshape(len(block), -1).argmax(axis=1)
    rows, columns = centre + reach[peak // len(reach)], centre + reach[peak % len(reach)]
    offset = np.arange(-half, half + 1)
    index = np.arange(len(block))[:, None, None]
    return block[index, (rows[:, None] + offset)[:, :, None], (columns[:, None] + offset)[:, None, :]]


def _half(side: int) -> int:
    """Half the side of the part that is compared after a shift [px]."""
    return side // 2 - SHIFT - 1


def _projected(normal: np.ndarray) -> np.ndarray:
    """Random projections (n, PROJECTIONS), which are nearly equal for copies."""
    flat = normal.reshape(len(normal), -1)
    directions = np.random.default_rng(0).normal(size=(flat.shape[1], PROJECTIONS)).astype(np.float32)
    return flat @ directions / np.sqrt(max(flat.shape[1], 1))


def _near_pairs(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Pairs (n, 2) of cutouts whose projections are closer than `NEAR`."""
    from scipy.spatial import cKDTree

    points = np.concatenate(parts) if parts else np.zeros((0, PROJECTIONS))
    rows = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(rows) < 2 or not points[rows].any():
        return np.zeros((0, 2), int)
    # A few neighbours suffice to connect a large group of copies.
    tree = cKDTree(points[rows])
    _, near = tree.query(points[rows], k=min(NEIGHBOURS, len(rows)), distance_upper_bound=NEAR)
    first = np.repeat(np.arange(len(rows)), near.shape[1])
    second = near.ravel()
    good = (second < len(rows)) & (second != first)
    return rows[np.stack([first[good], second[good]], axis=1)]


def _same(read: Callable[[np.ndarray], np.ndarray], pairs: np.ndarray, *, centre: bool) -> np.ndarray:
    """The pairs whose pixels agree; with `centre`, after alignment on the brightest pixel."""
    good = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), FEW):
        some = pairs[start : start + FEW]
        one, other = (read(some[:, side]) for side in (0, 1))
        if centre:
            one, other = _about_peak(one), _about_peak(other)
        difference = np.abs(_normalised(one) - _normalised(other)).reshape(len(some), -1)
        good[start : start + FEW] = np.quantile(difference, 0.9, axis=1) < SAME
    return pairs[good]
