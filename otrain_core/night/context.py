"""The context of a candidate: sources near it in its image, in catalogues, and in the other images of its night."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.cubes.footprints import unit_vectors
from otrain_core.errors import OtrainError
from otrain_core.images.frames import MASK_SATURATED
from otrain_core.images.wcs import pixel_to_sky
from otrain_core.plan.sections import Section
from otrain_core.positions import nearest

if TYPE_CHECKING:
    from otrain_core.night.ledger import Ledger

log = logging.getLogger("otrain")

REACH = 30.0  # largest distance of a catalogue entry [arcsec]
SOURCE_REACH = 12.0  # largest distance of a source of the reference [FWHM]
SOURCE_SNR = 5.0  # threshold for the pixels of such a source
PAIRS = 1_000_000  # pairs of detections at the same pixel that are held in memory at once
SAME_PIXEL = 1.0  # candidates of several images within this distance are at the same pixel of the detector [px]
LEAST_ERROR = 0.2  # smallest error of a position between images, including that of the WCS [FWHM]
EARLIEST = datetime(1858, 11, 17)  # MJD 0

# Columns of candidates (name, unit, description): from one image, and from all images of a night.
IMAGE_COLUMNS = {
    "source_distance": ("arcsec", "distance to the nearest source of the reference within 12 FWHM"),
    "source_mag": ("mag", "magnitude of that source, in an aperture of 3 FWHM diameter"),
    "source_ra": ("deg", "right ascension of that source, ICRS"),
    "source_dec": ("deg", "declination of that source, ICRS"),
    "saturated_distance": ("pix", "distance to the nearest saturated pixel of the image"),
    "edge_distance": ("pix", "distance to the edge of the image"),
    "star_distance": ("arcsec", "distance to the nearest entry of the star catalogue within 30 arcsec"),
    "star_mag": ("mag", "magnitude of that entry"),
    "star_kind": ("", "star or galaxy, if the catalogue says so"),
    "known": ("", "name of the nearest known object within 30 arcsec"),
    "known_kind": ("", "variable or moving"),
    "known_distance": ("arcsec", "distance to that object"),
}
TEXT = ("star_kind", "known", "known_kind")
NIGHT_COLUMNS = {
    "object_name": ("", "name of the object, from its first position on the sky; empty without a WCS"),
    "n_images": ("", "images of the night with a candidate at this position on the sky"),
    "n_covered": ("", "images of the night that show this position"),
    "n_detector": ("", "images with a candidate at this pixel but at other positions on the sky, plus this image"),
    "motion": ("arcsec/h", "speed of the object, from a straight line fitted to its positions"),
    "motion_error": ("arcsec/h", "1-sigma error of the speed"),
}


class Catalogues(Section):
    """Sources of the known objects and stars near candidates; none by default.

    Attributes
    ----------
    known, stars : str
        See `otrain_core.sky.catalogue.known_objects` and `star_catalogue`; an empty text disables the query.
    cache : str
        Folder in which answers from the network are kept.
    """

    known: str = ""
    stars: str = ""
    cache: str = "results/cache"


def image_context(
    table: Mapping[str, np.ndarray],
    planes: Mapping[str, np.ndarray],
    *,
    image: str,
    seeing: float,
    pixel_scale: float,
    zero_point: float,
    wcs: Any = None,
    field: Any = None,
    catalogues: Catalogues | None = None,
) -> dict[str, np.ndarray]:
    """The columns `IMAGE_COLUMNS` of the candidates of one image.

    If a service does not answer, its columns are empty and a warning is logged.

    Parameters
    ----------
    table : mapping of arrays
        x, y [px], ra, dec [deg], (N,).
    planes : mapping of arrays
        noise, mask, reference, (height, width), as written by the step `subtract`.
    image : str
        Name of the image.
    seeing : float
        FWHM [px].
    pixel_scale : float
        [arcsec/px]
    zero_point : float
        Magnitude of 1 ADU.
    wcs : astropy.wcs.WCS, optional
    field : otrain_core.sky.fields.Field, optional
        Field of the image; without it no catalogue is queried.
    catalogues : Catalogues, optional

    Returns
    -------
    dict of numpy.ndarray
        (N,); missing numbers are NaN, missing texts empty.
    """
    x, y = (np.asarray(table[name], float) for name in "xy")
    height, width = planes["mask"].shape
    found = _reference_sources(planes["reference"], planes["noise"], x, y, seeing=seeing)
    columns = _nothing(len(x)) | {
        "source_distance": found["distance"] * pixel_scale,
        "source_mag": zero_point - 2.5 * np.log10(found["flux"]),
        "edge_distance": np.minimum.reduce([x + 0.5, y + 0.5, width - 0.5 - x, height - 0.5 - y]),
    }
    if wcs is not None and len(x):
        columns["source_ra"], columns["source_dec"] = pixel_to_sky(wcs, found["x"], found["y"])
    rows, cells = np.nonzero(planes["mask"] & MASK_SATURATED)
    distance = nearest(x, y, cells, rows, radius=np.inf)[1]
    columns["saturated_distance"] = np.where(np.isfinite(distance), distance, np.nan)
    if field is not None and catalogues is not None:
        columns |= _catalogued(table, field, catalogues, image=image)
    return columns


def _nothing(n: int) -> dict[str, np.ndarray]:
    return {name: np.full(n, "") if name in TEXT else np.full(n, np.nan) for name in IMAGE_COLUMNS}


def _reference_sources(
    reference: np.ndarray, noise: np.ndarray, x: np.ndarray, y: np.ndarray, *, seeing: float
) -> dict[str, np.ndarray]:
    """The nearest source of the reference to each candidate: x, y, distance [px] and flux [ADU]; NaN if there is none."""
    import sep

    found = {name: np.full(len(x), np.nan) for name in ("x", "y", "distance", "flux")}
    reach, (height, width) = SOURCE_REACH * seeing, reference.shape
    side = int(np.ceil(reach + 3 * seeing))
    # With the buffer that a step set for a whole image, each call would take 20 ms longer.
    buffer = sep.get_extract_pixstack()
    sep.set_extract_pixstack(10_000 + 4 * (2 * side + 1) ** 2)
    for k, (xk, yk) in enumerate(zip(x, y, strict=True)):
        bottom, left = max(int(yk) - side, 0), max(int(xk) - side, 0)
        part = np.s_[bottom : min(int(yk) + side + 1, height), left : min(int(xk) + side + 1, width)]
        bad = ~np.isfinite(reference[part]) | ~(noise[part] > 0) | ~np.isfinite(noise[part])
        data = np.ascontiguousarray(np.where(bad, 0, reference[part]), np.float32)
        error = np.ascontiguousarray(np.where(bad, 1, noise[part]), np.float32)
        try:
            sources = sep.extract(data, SOURCE_SNR, err=error, mask=bad, minarea=3)
        except Exception:  # sep raises a bare Exception when its buffer overflows in a crowded field
            continue
        distance = np.hypot(sources["x"] + left - xk, sources["y"] + bottom - yk)
        if not len(sources) or distance.min() > reach:
            continue
        best = int(distance.argmin())
        flux = sep.sum_circle(data, sources["x"][[best]], sources["y"][[best]], 1.5 * seeing, mask=bad)[0][0]
        found["x"][k], found["y"][k] = sources["x"][best] + left, sources["y"][best] + bottom
        found["distance"][k], found["flux"][k] = distance[best], flux if flux > 0 else np.nan
    sep.set_extract_pixstack(buffer)
    return found


def _catalogued(
    table: Mapping[str, np.ndarray], field: Any, catalogues: Catalogues, *, image: str
) -> dict[str, np.ndarray]:
    """Columns of the known objects and stars near the candidates; without those of a service that does not answer."""
    from otrain_core.sky.catalogue import known_objects, star_catalogue

    columns: dict[str, np.ndarray] = {}
    wanted = (
        (catalogues.known, known_objects, {"known": "name", "known_kind": "kind", "known_distance": None}),
        (catalogues.stars, star_catalogue, {"star_distance": None, "star_mag": "mag", "star_kind": "kind"}),
    )
    for source, look_up, names in wanted:
        if not source:
            continue
        try:
            entries = look_up(source, field, cache=catalogues.cache)
        except OtrainError as error:
            log.warning("%s: %s could not be queried near its candidates: %s", image, source, error)
            continue
        index, distance = _nearest_on_sky(table, entries["ra"].to_numpy(float), entries["dec"].to_numpy(float))
        near = entries.reset_index(drop=True).reindex(index)  # the index -1 gives missing values
        for name, column in names.items():
            values = near[column].fillna("") if name in TEXT else near[column] if column else distance
            columns[name] = np.asarray(values, "U" if name in TEXT else float)
    return columns


def _nearest_on_sky(table: Mapping[str, np.ndarray], ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest position within `REACH` (-1 if there is none) and its distance [arcsec]."""
    from scipy.spatial import cKDTree

    here = unit_vectors(np.asarray(table["ra"], float), np.asarray(table["dec"], float))
    placed, listed = np.isfinite(here).all(axis=1), np.isfinite(ra + dec)
    index, distance = np.full(len(here), -1), np.full(len(here), np.nan)
    if placed.any() and listed.any():
        tree = cKDTree(unit_vectors(ra[listed], dec[listed]))
        chord, found = tree.query(here[placed], distance_upper_bound=np.radians(REACH / 3600))
        near = np.isfinite(chord)
        rows = np.flatnonzero(placed)[near]
        index[rows] = np.flatnonzero(listed)[found[near]]
        distance[rows] = np.degrees(chord[near]) * 3600
    return index, distance


def night_context(
    detections: Sequence[Mapping[str, Any]], images: Sequence[Mapping[str, Any]], *, coverage: bool = True
) -> dict[str, np.ndarray]:
    """The columns `NIGHT_COLUMNS` of all detections of a night.

    Parameters
    ----------
    detections, images : sequence of mapping
        From `otrain_core.night.ledger.Ledger`.
    coverage : bool
        Whether n_covered counts all images that show a position, or only those with a detection. Counting all takes a
        time that grows with the square of the number of images.

    Returns
    -------
    dict of numpy.ndarray
        In the order of `detections`.
    """
    objects = np.array([-1 if item["object"] is None else item["object"] for item in detections], int)
    of_image = np.array([item["image"] for item in detections], int)
    n_images, n_covered = np.ones(len(objects), int), np.ones(len(objects), int)
    motion, error = np.full(len(objects), np.nan), np.full(len(objects), np.nan)
    names = np.full(len(objects), "", "U32")
    seeing = {image["number"]: _seeing(image["record"]) for image in images}
    order = np.argsort(objects, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(objects[order])) + 1)
    groups = [rows for rows in groups if len(rows) and objects[rows[0]] >= 0]
    places = np.array([[detections[rows[0]][name] for name in ("object_ra", "object_dec")] for rows in groups])
    places = places.reshape(-1, 2)
    covering = images if coverage else ()
    covered = sum((covers(image["record"], *places.T) for image in covering), np.zeros(len(groups), int))
    for rows, place, count in zip(groups, places, covered, strict=True):
        names[rows] = object_name(*place)
        n_images[rows] = len(set(of_image[rows]))
        n_covered[rows] = max(n_images[rows[0]], count)
        if len(rows) > 1:
            items = [detections[row] for row in rows]
            motion[rows], error[rows] = _motion(items, np.array([seeing[item["image"]] for item in items]))
    return {
        "object_name": names,
        "n_images": n_images,
        "n_covered": n_covered,
        "n_detector": _on_detector(detections, of_image, objects),
        "motion": motion,
        "motion_error": error,
    }


def is_fixed(item: Mapping[str, Any]) -> bool:
    """Whether a candidate is fixed on the detector rather than on the sky, such as a hot pixel."""
    return bool(item["n_detector"] > item["n_images"])


def _on_detector(detections: Sequence[Mapping[str, Any]], image: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """For each detection, one plus the number of other images with another object at the same pixel of the detector."""
    from scipy.spatial import cKDTree

    count = np.ones(len(detections), int)
    if len(detections) < 2:
        return count
    places = np.array([[item["x"], item["y"]] for item in detections])
    tree = cKDTree(places)
    near = tree.query_ball_point(places, SAME_PIXEL, return_length=True)
    # A bad column gives detections at the same pixels in every image: all pairs at once would not fit into memory.
    for rows in np.split(np.arange(len(places)), np.flatnonzero(np.diff(np.cumsum(near) // PAIRS)) + 1):
        one = np.repeat(rows, near[rows])
        two = np.concatenate(tree.query_ball_point(places[rows], SAME_PIXEL)).astype(int)
        other = (image[one] != image[two]) & (objects[one] != objects[two]) & (objects[one] >= 0) & (objects[two] >= 0)
        seen = np.unique(np.column_stack([one, image[two]])[other], axis=0)
        count += np.bincount(seen[:, 0], minlength=len(count))
    return count


def covers(record: Mapping[str, Any], ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Whether an image shows each position [deg].

    The sides of the image are great circles between the corners in its record. Without corners the answer is False.

    Parameters
    ----------
    record : mapping
        Its ``footprint`` is as returned by `footprint`.
    ra, dec : numpy.ndarray
        [deg], (N,)

    Returns
    -------
    numpy.ndarray
        bool, (N,)
    """
    if not record.get("footprint") or not len(ra):
        return np.zeros(len(ra), bool)
    around, points = unit_vectors(*np.array(record["footprint"], float).T), unit_vectors(ra, dec)
    sides = points @ np.cross(around, np.roll(around, -1, axis=0)).T
    return (points @ around.mean(axis=0) > 0) & ((sides >= 0).all(axis=1) | (sides <= 0).all(axis=1))


def certainty(item: Mapping[str, Any]) -> float:
    """Probability of a detection, as a key to sort by: -1 where it is unknown."""
    return float(item["probability"]) if np.isfinite(item["probability"]) else -1.0


def _seeing(record: Mapping[str, Any]) -> float:
    return float(record.get("seeing_px") or np.nan) * float(record.get("pixel_scale") or np.nan)


def _motion(items: Sequence[Mapping[str, Any]], seeing: np.ndarray) -> tuple[float, float]:
    """Speed of an object and its error [arcsec/h], NaN where unknown.

    A straight line is fitted to the positions, whose errors are FWHM / (2.355 S/N); those without S/N are not used.
    """
    hours = np.array([24 * mjd(item["time"]) for item in items])
    snr = np.array([item["snr"] for item in items])
    known = np.isfinite(hours) & np.isfinite(seeing) & (snr > 0)
    if len(np.unique(hours[known])) < 2:
        return np.nan, np.nan
    ra, dec = (np.array([item[name] for item in items])[known] for name in ("ra", "dec"))
    east = 3600 * ((ra - ra[0] + 180) % 360 - 180) * np.cos(np.radians(dec[0]))
    north = 3600 * (dec - dec[0])
    sigma = seeing[known] * np.maximum(1 / (2.355 * snr[known]), LEAST_ERROR)
    weight = sigma**-2.0
    since = hours[known] - np.average(hours[known], weights=weight)
    spread = (weight * since**2).sum()
    speeds = [(weight * since * value).sum() / spread for value in (east, north)]
    return float(np.hypot(*speeds)), float(spread**-0.5)


def mjd(time: str | None) -> float:
    """Modified Julian date of an ISO time in UTC; NaN if there is no time."""
    try:
        moment = datetime.fromisoformat(str(time)).replace(tzinfo=None)
    except ValueError:
        return np.nan
    return (moment - EARLIEST).total_seconds() / 86400


def object_name(ra: float, dec: float) -> str:
    """Name from a position [deg]: JHHMMSS.ss+DDMMSS.s, truncated rather than rounded, as the IAU recommends."""
    seconds = int((ra % 360) / 15 * 360_000 + 1e-6)
    arcsec = int(abs(dec) * 36_000 + 1e-6)
    right = f"{seconds // 360_000:02d}{seconds // 6000 % 60:02d}{seconds % 6000 / 100:05.2f}"
    up = f"{arcsec // 36_000:02d}{arcsec // 600 % 60:02d}{arcsec % 600 / 10:04.1f}"
    return f"J{right}{'-' if dec < 0 else '+'}{up}"


def footprint(wcs: Any, shape: tuple[int, int]) -> list[list[float]]:
    """Corners of an image on the sky [deg], (4, 2), in order around the image."""
    height, width = shape
    x, y = np.array([-0.5, width - 0.5, width - 0.5, -0.5]), np.array([-0.5, -0.5, height - 0.5, height - 0.5])
    return np.column_stack(pixel_to_sky(wcs, x, y)).tolist()


def detections_of(
    ledger: Ledger, night: str, *, around: int | None = None, plain: bool = False, coverage: bool = True
) -> list[dict[str, Any]]:
    """All detections of a night so far, with the columns `NIGHT_COLUMNS`.

    Parameters
    ----------
    ledger : Ledger
    night : str
    around : int, optional
        Number of an image: only its detections and those on which their columns depend. In a long night these are few.
    plain : bool
        See `Ledger.detections`.
    coverage : bool
        See `night_context`.
    """
    detections = ledger.detections(night, around=around, pixels=SAME_PIXEL, plain=plain)
    columns = night_context(detections, ledger.images(night), coverage=coverage)
    for k, item in enumerate(detections):
        item.update({name: values[k].item() for name, values in columns.items()})
    return detections


def add_night_context(
    table: dict[str, np.ndarray], ledger: Ledger, night: str, number: int, *, plain: bool = False
) -> list[dict[str, Any]]:
    """Fill the columns `NIGHT_COLUMNS` of the candidates of one image; return `detections_of` around this image."""
    detections = detections_of(ledger, night, around=number, plain=plain)
    mine = {item["candid"]: item for item in detections if item["image"] == number}
    for name in NIGHT_COLUMNS:
        values = [mine[candid][name] for candid in table["candid"].astype(str)]
        table[name] = np.array(values, table[name].dtype if not values else None)
    return detections


def update_tables(folder: Path, detections: Sequence[Mapping[str, Any]]) -> None:
    """Write the context of the whole night into the tables of its images, which included the earlier images only."""
    from astropy.table import Table

    from otrain_core.night.outputs import write_tables

    of_image: dict[str, dict[str, Mapping[str, Any]]] = {}
    for item in detections:
        of_image.setdefault(item["image_name"], {})[item["candid"]] = item
    for image, items in of_image.items() if len(of_image) > 1 else ():
        path = folder / f"{image}.ecsv"
        if not path.is_file():
            continue
        table = Table.read(path, format="ascii.ecsv", fill_values=[])  # an empty text is not a missing value
        new = {name: [items[str(candid)][name] for candid in table["candid"]] for name in NIGHT_COLUMNS}
        if any(
            not np.array_equal(table[name], values, equal_nan=name.startswith("motion")) for name, values in new.items()
        ):
            for name, values in new.items():
                table[name][:] = values
            write_tables(folder, image, table)
