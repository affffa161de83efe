"""Positions of the candidates of a cube on the sky, and groups of images that overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

DIRECTIONS = 16  # number of directions along which two footprints are compared
NEIGHBOURS = 9  # number of nearest images, the image itself included, that are compared first
AT_ONCE = 256  # number of images whose other neighbours are then searched at a time


def sky_by(cube: Mapping[str, np.ndarray]) -> str:
    """By which positions overlapping candidates are recognised.

    Returns
    -------
    str
        "positions": all candidates have a sky position. "reference": the others have a position on the pixel grid of
        the reference of their field. "unknown": some have neither, or their positions are on the grids of several
        reference files, which may show the same sky.
    """
    lost = ~np.isfinite(_sky_vectors(cube)[:, 0])
    if not lost.any():
        return "positions"
    files = {name for name in set(field_names(cube)[lost].tolist()) if name.startswith("reference ")}
    return "unknown" if np.isnan(directions(cube)[:, 0]).any() or len(files) > 1 else "reference"


def field_names(cube: Mapping[str, np.ndarray]) -> np.ndarray:
    """Field of the image of each candidate, as in the sheet of images; '' where the sheet has none."""
    return np.asarray(cube["fields"]).astype(str) if "fields" in cube else np.full(len(cube["labels"]), "")


def directions(cube: Mapping[str, np.ndarray]) -> np.ndarray:
    """Unit vectors (N, 3) of the positions of candidates; NaN where unknown.

    For candidates without a sky position, the position on the grid of the reference is used. The grid of each such
    field is put around a different direction, which keeps the distances within a field and separates the fields.
    """
    vectors = _sky_vectors(cube)
    lost, names = ~np.isfinite(vectors[:, 0]), field_names(cube)
    wanted = sorted(set(names[lost].tolist()) - {""})
    if not wanted or "grid_x" not in cube or "grid_y" not in cube:
        return vectors
    grid = np.deg2rad(np.column_stack([np.asarray(cube["grid_x"], float), np.asarray(cube["grid_y"], float)]) / 3600)
    for number, name in enumerate(wanted):
        mine = names == name
        if not np.isfinite(grid[mine]).all():
            continue
        # Directions are spread evenly over the sphere (Fibonacci lattice); the grid is a gnomonic projection.
        z = 1 - (2 * number + 1) / len(wanted)
        angle = np.pi * (3 - np.sqrt(5)) * number
        centre = np.array([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z])
        offset = grid[mine] - grid[mine].mean(axis=0)
        placed = centre + offset @ np.stack(axes(centre))
        vectors[mine] = placed / np.linalg.norm(placed, axis=1, keepdims=True)
    return vectors


def join_unplaced(field_of_image: np.ndarray, image: np.ndarray, vectors: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Merge the images of a named field into one field, if the positions of some of its candidates are unknown.

    Parameters
    ----------
    field_of_image : numpy.ndarray
        (n_images,) field number of each image.
    image : numpy.ndarray
        (N,) image number of each candidate.
    vectors : numpy.ndarray
        (N, 3) as from `directions`.
    names : numpy.ndarray
        (N,) as from `field_names`.

    Returns
    -------
    numpy.ndarray
        (n_images,) new field numbers.
    """
    joined, lost = field_of_image.copy(), ~np.isfinite(vectors[:, 0])
    for name in sorted(set(names[lost].tolist()) - {""}):
        groups = np.unique(joined[image[names == name]])
        joined[np.isin(joined, groups)] = groups.min()
    return np.unique(joined, return_inverse=True)[1]


def _sky_vectors(cube: Mapping[str, np.ndarray]) -> np.ndarray:
    """Unit vectors (N, 3) of the sky positions; NaN where there is none."""
    n = len(cube["labels"])
    void = np.full(n, np.nan)
    return unit_vectors(np.asarray(cube.get("ra", void), float), np.asarray(cube.get("dec", void), float))


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Unit vectors (n, 3) of sky positions ra, dec [deg]."""
    ra, dec = np.deg2rad(ra), np.deg2rad(dec)
    return np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def guard_distances(cube: Mapping[str, np.ndarray], guard: float) -> np.ndarray:
    """Guard distance (N,) [rad] between candidates of different sets.

    It is half the diagonal of a cutout plus `guard` times the seeing; 0 where seeing or pixel scale are unknown.
    """
    half_diagonal = cube["cube"].shape[1] / np.sqrt(2)
    void = np.full(len(cube["labels"]), np.nan)
    seeing = np.asarray(cube.get("seeing", void), float)
    scale = np.asarray(cube.get("pixel_scale", void), float)
    return np.nan_to_num(np.deg2rad((half_diagonal + guard * seeing) * scale / 3600))


def pairs_within(
    ours: np.ndarray, our_guards: np.ndarray, theirs: np.ndarray, their_guards: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find pairs of candidates of two groups that are closer than the mean of their guard distances.

    Parameters
    ----------
    ours, theirs : numpy.ndarray
        (n, 3) and (m, 3) unit vectors; NaN without position.
    our_guards, their_guards : numpy.ndarray
        (n,) and (m,) guard distances [rad].

    Returns
    -------
    first, second : numpy.ndarray
        Indices of the candidates of each pair in the two groups.
    distance, needed : numpy.ndarray
        Distance of each pair, and mean of its guard distances [rad].
    """
    from scipy.spatial import cKDTree

    i, j = (np.flatnonzero(np.isfinite(vectors[:, 0])) for vectors in (ours, theirs))
    none, void = np.zeros(0, dtype=int), np.zeros(0)
    if len(i) == 0 or len(j) == 0:
        return none, none, void, void
    # Preselect the candidates that have a neighbour within the largest guard distance.
    tree, reach = cKDTree(theirs[j]), max(our_guards[i].max(), their_guards[j].max())
    i = i[np.isfinite(tree.query(ours[i], distance_upper_bound=reach)[0])]
    if len(i) == 0:
        return none, none, void, void
    pairs = cKDTree(ours[i]).sparse_distance_matrix(tree, reach, output_type="ndarray")
    first, second, distance = i[pairs["i"]], j[pairs["j"]], pairs["v"]
    needed = (our_guards[first] + their_guards[second]) / 2
    close = distance < needed * (1 - 1e-6)
    return first[close], second[close], distance[close], needed[close]


def find_fields(vectors: np.ndarray, image: np.ndarray, guards: np.ndarray, *, n_images: int) -> np.ndarray:
    """Find fields, which are connected groups of images that overlap on the sky.

    Two images overlap unless the positions of their candidates, projected on one of `DIRECTIONS` axes, are separated
    by more than the largest guard distance. An image without positions is a separate field.

    Parameters
    ----------
    vectors : numpy.ndarray
        (N, 3) unit vectors of the candidates; NaN without position.
    image : numpy.ndarray
        (N,) image number of each candidate.
    guards : numpy.ndarray
        (N,) guard distances [rad].
    n_images : int

    Returns
    -------
    numpy.ndarray
        (n_images,) int, field number of each image, in order of the first image of each field.
    """
    order = np.argsort(image, kind="stable")
    bounds = np.searchsorted(image[order], np.arange(n_images + 1))
    points = [vectors[order[bounds[k] : bounds[k + 1]]] for k in range(n_images)]
    points = [p[np.isfinite(p[:, 0])] for p in points]
    placed = [k for k in range(n_images) if len(points[k])]
    parent = np.arange(n_images)

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    if placed:
        margin = float(guards.max())
        centres = np.array([direction(points[k]) for k in placed])
        radii = np.array(
            [np.sqrt(((points[k] - c) ** 2).sum(axis=1)).max() for k, c in zip(placed, centres, strict=True)]
        )
        for pairs in _near_pairs(centres, 2 * radii.max() + margin, lambda: np.array([root(k) for k in placed])):
            for a, b in pairs:
                if root(placed[a]) != root(placed[b]) and _overlap(points[placed[a]], points[placed[b]], margin):
                    parent[max(root(placed[a]), root(placed[b]))] = min(root(placed[a]), root(placed[b]))
    return np.unique([root(k) for k in range(n_images)], return_inverse=True)[1]


def _near_pairs(centres: np.ndarray, reach: float, roots: Callable[[], np.ndarray]) -> Iterator[np.ndarray]:
    """Pairs (n, 2) of images that are closer than `reach` and not yet known to be connected.

    Nearest neighbours come first. They connect most images of a field, so the many remaining pairs in a field with
    thousands of images need not be compared.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(centres)
    _, near = tree.query(centres, k=np.arange(1, 1 + min(NEIGHBOURS, len(centres))), distance_upper_bound=reach)
    a, b = np.repeat(np.arange(len(centres)), near.shape[1]), near.ravel()
    yield np.stack([a, b], axis=1)[(b < len(centres)) & (a != b)]
    for start in range(0, len(centres), AT_ONCE):
        root = roots()
        if len(np.unique(root)) == 1:
            return
        found = tree.query_ball_point(centres[start : start + AT_ONCE], reach)
        a = np.repeat(np.arange(start, start + len(found)), [len(others) for others in found])
        b = np.concatenate([np.asarray(others, int) for others in found])
        yield np.stack([a, b], axis=1)[root[a] != root[b]]


def direction(points: np.ndarray) -> np.ndarray:
    """Unit vector (3,) of the mean of unit vectors (n, 3)."""
    mean = points.mean(axis=0)
    return mean / np.linalg.norm(mean)


def axes(centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors to the east and north at a direction (3,); at the poles, any two orthogonal directions."""
    pole = np.array([0.0, 0.0, 1.0]) if abs(centre[2]) < 0.999999 else np.array([1.0, 0.0, 0.0])
    east = np.cross(pole, centre)
    east /= np.linalg.norm(east)
    return east, np.cross(centre, east)


def _overlap(a: np.ndarray, b: np.ndarray, margin: float) -> bool:
    """Whether no direction separates two groups of unit vectors by more than the margin [rad]."""
    east, north = axes(direction(np.vstack([a, b])))
    for angle in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
        axis = np.cos(angle) * east + np.sin(angle) * north
        pa, pb = a @ axis, b @ axis
        if pa.min() - pb.max() > margin or pb.min() - pa.max() > margin:
            return False
    return True
