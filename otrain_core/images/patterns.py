"""Match two patterns of stars without a first guess, by the shapes of their triangles.

Triangles of bright stars are compared by the ratios of their sides, as in Groth (1986, AJ 91, 1244) and
Valdes et al. (1995, PASP 107, 1119). Every pair of similar triangles votes for one similarity transformation (shift,
rotation, scale, with or without a reflection), and the transformations with most votes are returned. The method is
deterministic. Stars that are in one image only reduce the number of votes, but their votes do not agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.spatial import cKDTree

# Numbers of the brightest stars (first list, second list) that are tried in turn. The last two are for lists whose
# bright stars differ, for example because one image covers much more of the sky.
LEVELS = ((30, 30), (60, 60), (30, 120), (120, 30))
TOLERANCE = 0.006  # largest difference of the ratios of sides of two similar triangles
FLATTEST = 0.1  # smallest accepted ratio of the shortest side to the longest
CLOSE = 0.01  # largest displacement of stars between votes that agree, as a fraction of the half diagonal
LARGEST_SCALE = 8.0
MOST_VOTES = 3_000_000  # more pairs of triangles than this are thinned out


@dataclass
class Similarity:
    """The transformation ``z' = turn * z + shift`` of positions as complex numbers; if `mirrored`, of the conjugate of z."""

    turn: complex
    shift: complex
    mirrored: bool
    votes: int

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = x + (-1j if self.mirrored else 1j) * y
        out = self.turn * z + self.shift
        return out.real, out.imag


def similarities(first: np.ndarray, second: np.ndarray, *, most: int = 5) -> list[Similarity]:
    """Similarity transformations from one list of stars to the other, the most probable first.

    Parameters
    ----------
    first, second : numpy.ndarray
        (n, 2), x and y [px]; at least three and about a hundred stars at most.
    most : int
        Largest number of transformations.

    Returns
    -------
    list of Similarity
        Empty if no two triangles are similar.
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
    """Indices of the vertices (n, 3), sorted by the length of the opposite side, the longest first, and the shapes (n, 2).

    The shape is the ratios of the two shorter sides to the longest.
    """
    index = np.array(list(combinations(range(len(xy)), 3)))
    corner = xy[index]
    # Side k is opposite to vertex k.
    sides = np.linalg.norm(np.roll(corner, -1, axis=1) - np.roll(corner, 1, axis=1), axis=2)
    order = np.argsort(-sides, axis=1, kind="stable")
    index, sides = np.take_along_axis(index, order, axis=1), np.take_along_axis(sides, order, axis=1)
    good = sides[:, 2] > FLATTEST * sides[:, 0]
    index, sides = index[good], sides[good]
    return index, sides[:, 1:] / sides[:, :1]


def _handed(xy: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Whether the vertices are in anticlockwise order."""
    a, b, c = (xy[triangles[:, k]] for k in range(3))
    return (b - a)[:, 0] * (c - a)[:, 1] > (b - a)[:, 1] * (c - a)[:, 0]


def _peaks(
    z: np.ndarray, target: np.ndarray, ours: np.ndarray, theirs: np.ndarray, *, mirrored: bool, most: int
) -> list[Similarity]:
    """Transformations with most votes of pairs of triangles.

    Positions are complex numbers; those of the first list, `z`, are already conjugated if `mirrored`.
    """
    turn = (target[theirs[:, 1]] - target[theirs[:, 2]]) / (z[ours[:, 1]] - z[ours[:, 2]])
    sane = (np.abs(turn) < LARGEST_SCALE) & (np.abs(turn) > 1 / LARGEST_SCALE)
    turn, ours, theirs = turn[sane], ours[sane], theirs[sane]
    centre = z.mean()
    middle = target[theirs].mean(axis=1) - turn * (z[ours].mean(axis=1) - centre)  # image of the centre
    # Scale the votes so that distances are displacements of stars, as fractions of the half diagonal of the second list.
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
