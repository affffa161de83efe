"""Two patterns of stars matched without any guess, by the shapes of their triangles.

Triangles of bright stars are compared by the ratios of their sides, as Groth (1986, AJ 91, 1244) and
Valdes et al. (1995, PASP 107, 1119) do. Every pair of like triangles is a vote for one similarity (shift,
turn, scale, with or without a mirror); what many pairs vote for is a candidate. Nothing is drawn at random,
and stars that only one image has cost votes but make no wrong ones agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.spatial import cKDTree

# Numbers of the brightest stars (first list, second list) that are tried in turn. The last two are for lists whose
# bright stars differ, as where one image shows much more of the sky.
LEVELS = ((30, 30), (60, 60), (30, 120), (120, 30))
TOLERANCE = 0.006  # of a ratio of sides
FLATTEST = 0.1  # smallest accepted ratio of the shortest side to the longest
CLOSE = 0.01  # votes agree where they displace no star by more than this share of the half diagonal
LARGEST_SCALE = 8.0
MOST_VOTES = 3_000_000  # more pairs of triangles than this are thinned


@dataclass
class Similarity:
    """``z' = turn * z + shift`` with positions as complex numbers; of the conjugate of z where `mirrored`."""

    turn: complex
    shift: complex
    mirrored: bool
    votes: int

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = x + (-1j if self.mirrored else 1j) * y
        out = self.turn * z + self.shift
        return out.real, out.imag


def similarities(first: np.ndarray, second: np.ndarray, *, most: int = 5) -> list[Similarity]:
    """Similarities that bring one list of stars onto the other, the likeliest first.

    Parameters
    ----------
    first, second : numpy.ndarray
        (n, 2), x and y; few dozen stars each, three or more.
    most : int
        Number of candidates.

    Returns
    -------
    list of Similarity
        At most `most`; empty where no two triangles are alike.
    """
    if min(len(first), len(second)) < 3:
        return []
    ours, shape = _triangles(first)
    theirs, shape_theirs = _triangles(second)
    if not len(shape) or not len(shape_theirs):
        return []
    pairs = cKDTree(shape).sparse_distance_matrix(cKDTree(shape_theirs), TOLERANCE, output_type="ndarray")
    pairs = pairs[:: max(1, len(pairs) // MOST_VOTES)]
    ours, theirs = ours[pairs["i"]], theirs[pairs["j"]]
    found: list[Similarity] = []
    for mirrored in (False, True):
        z, target = first @ [1, -1j if mirrored else 1j], second @ [1, 1j]
        same = (_handed(first, ours) == _handed(second, theirs)) != mirrored
        if same.any():
            found += _peaks(z, target, ours[same], theirs[same], mirrored=mirrored, most=most)
    return sorted(found, key=lambda one: -one.votes)[:most]


def _triangles(xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, 3), that opposite to the longest side first, and the shapes (n, 2): shorter sides over the longest."""
    index = np.array(list(combinations(range(len(xy)), 3)))
    corner = xy[index]
    # Side k lies opposite to vertex k.
    sides = np.linalg.norm(np.roll(corner, -1, axis=1) - np.roll(corner, 1, axis=1), axis=2)
    order = np.argsort(-sides, axis=1, kind="stable")
    index, sides = np.take_along_axis(index, order, axis=1), np.take_along_axis(sides, order, axis=1)
    good = sides[:, 2] > FLATTEST * sides[:, 0]
    index, sides = index[good], sides[good]
    return index, sides[:, 1:] / sides[:, :1]


def _handed(xy: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Whether the vertices go round to the left."""
    a, b, c = (xy[triangles[:, k]] for k in range(3))
    return (b - a)[:, 0] * (c - a)[:, 1] > (b - a)[:, 1] * (c - a)[:, 0]


def _peaks(
    z: np.ndarray, target: np.ndarray, ours: np.ndarray, theirs: np.ndarray, *, mirrored: bool, most: int
) -> list[Similarity]:
    """What most pairs of triangles vote for; positions are complex, those of the first list mirrored where asked."""
    turn = (target[theirs[:, 1]] - target[theirs[:, 2]]) / (z[ours[:, 1]] - z[ours[:, 2]])
    sane = (np.abs(turn) < LARGEST_SCALE) & (np.abs(turn) > 1 / LARGEST_SCALE)
    turn, ours, theirs = turn[sane], ours[sane], theirs[sane]
    centre = z.mean()
    middle = target[theirs].mean(axis=1) - turn * (z[ours].mean(axis=1) - centre)  # where the centre goes
    # Distances between votes are displacements, as shares of the half diagonal of the stars of the second list.
    reach = np.abs(target - target.mean()).max()
    phase = turn / np.abs(turn)
    space = np.column_stack([middle.real / reach, middle.imag / reach, phase.real, phase.imag, np.log(np.abs(turn))])
    tree = cKDTree(space)
    votes = tree.query_ball_point(space, CLOSE, return_length=True)
    found: list[Similarity] = []
    left = np.ones(len(votes), dtype=bool)
    while left.any() and len(found) < most:
        top = int(np.argmax(np.where(left, votes, -1)))
        members = tree.query_ball_point(space[top], CLOSE)
        left[tree.query_ball_point(space[top], 3 * CLOSE)] = False
        alpha = complex(turn[members].mean())
        found.append(Similarity(alpha, complex(middle[members].mean() - alpha * centre), mirrored, int(votes[top])))
    return found
