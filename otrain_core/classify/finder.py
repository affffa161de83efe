"""The detector network in use: ONNX Runtime on the tiles of an image, and the sources that its maps show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.candidates.planes import PLANES, Planes
from otrain_core.classify.classifier import KEY
from otrain_core.classify.graph import open_graph, run_graph
from otrain_core.errors import ConfigError, CubeError, first_line
from otrain_core.results import number as number_in

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import DetectOptions

FORMAT = "otrain-finder-1"
MAPS = ("heat", "dx", "dy", "log_snr", "footprint")  # what the network gives for each pixel
TILE = 512  # side of the tiles of an image [px]; the maps do not depend on it
MOST_OFFSET = 1.0  # of a source from its pixel [px]
SAME_PLACE = 0.5  # sources nearer than this are one [px]
LEAST_SCORE = 0.02  # of a peak that is looked at


class Finder:
    """A detector network from a file.

    Parameters
    ----------
    path : path-like
        ONNX file, as `otrain_core.networks.finder.export_finder` writes it.
    threads : int
        CPU threads.

    Attributes
    ----------
    about : dict
        Metadata: reach (pixels about a pixel that its maps depend on), threshold (score that gives one false alarm
        an image of the validation set), and what it was trained on.

    Raises
    ------
    ConfigError
        Not a file of a detector network.
    """

    def __init__(self, path: str | Path, *, threads: int = 1):
        self.path = str(path)
        try:
            self._session = open_graph(Path(path).read_bytes(), threads=threads)
            about = json.loads(self._session.get_modelmeta().custom_metadata_map.get(KEY, "{}"))
        except (FileNotFoundError, IsADirectoryError):
            raise ConfigError(f"{path}: no such file; a detector network (finder.onnx) is needed") from None
        except Exception as error:  # ONNX Runtime raises kinds of its own
            raise ConfigError(f"{path}: not a readable detector network ({first_line(error)})") from None
        made = about.get("format") if isinstance(about, dict) else None
        if made != FORMAT or list(about.get("planes", [])) != list(PLANES):
            other = "one of another version" if str(made).startswith("otrain-finder") else "another model"
            raise ConfigError(f"{path}: not a detector network of this version (finder.onnx), but {other}")
        if not (0 <= number_in(about, "threshold") <= 1 and number_in(about, "reach") >= 0):
            raise ConfigError(f"{path}: a detector network without a threshold from 0 to 1 or without its reach")
        self.about: Mapping[str, Any] = about
        self._input = self._session.get_inputs()[0].name

    @property
    def threshold(self) -> float:
        """Score of a candidate at least."""
        return float(self.about["threshold"])

    def maps(self, planes: Planes, *, tile: int = TILE) -> dict[str, np.ndarray]:
        """Maps of an image by name, `MAPS`: float32 (height, width).

        heat and footprint lie between 0 and 1; dx, dy lead from the pixel to the source [px]. Each is the mean over the
        image and the image turned by 180 degrees, in which the errors of the network differ. At the border of a tile the
        network sees what lies beyond it, so that the maps are those of the whole image.

        Raises
        ------
        CubeError
            The network takes too much time or memory.
        """
        if tile < 1:
            raise ValueError(f"tile must be at least 1 px, not {tile}")
        seen = planes.inputs(planes.spread())
        height, width, reach = *planes.shape, int(self.about["reach"])
        found = np.empty((height, width, len(MAPS)), np.float32)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                bottom, right = min(top + tile, height), min(left + tile, width)
                y0, x0 = max(top - reach, 0), max(left - reach, 0)
                given = self._two_views(seen[y0 : bottom + reach, x0 : right + reach])
                found[top:bottom, left:right] = given[top - y0 : bottom - y0, left - x0 : right - x0]
        for k in (MAPS.index("heat"), MAPS.index("footprint")):
            found[..., k] = 1 / (1 + np.exp(-np.clip(found[..., k], -60, 60)))
        return {name: found[..., k] for k, name in enumerate(MAPS)}

    def _two_views(self, part: np.ndarray) -> np.ndarray:
        """Mean of what the network gives for a tile and for the tile turned by 180 degrees: (height, width, maps)."""
        views = []
        for turn in (1, -1):
            given = run_graph(self._session, self._input, np.ascontiguousarray(part[::turn, ::turn])[None])
            if given.shape != (1, *part.shape[:2], len(MAPS)):
                raise CubeError(f"{self.path}: maps of shape {given.shape[1:]} for a tile of {part.shape[:2]} px")
            views.append(given[0, ::turn, ::turn])
        here, turned = views
        signs = np.where(np.isin(MAPS, ("dx", "dy")), -1, 1).astype(np.float32)
        return (here + signs * turned) / 2

    def find(
        self, planes: Planes, *, threshold: float | None = None, both_signs: bool = False, tile: int = TILE
    ) -> pd.DataFrame:
        """Sources of an image, highest score first.

        Parameters
        ----------
        planes : Planes
            Its difference may be None.
        threshold : float, optional
            Score at least (default: that of the network).
        both_signs : bool
            Also find what fades: a second pass with science and reference in each other's place.
        tile : int
            Side of the tiles [px].

        Returns
        -------
        pandas.DataFrame
            x, y [px], score (0 to 1), snr, sign (1, or -1 of what fades).
        """
        tables = []
        for sign in (1, -1) if both_signs else (1,):
            maps = self.maps(planes if sign == 1 else planes.swapped(), tile=tile)
            tables.append(peaks(maps, planes.bad, threshold=self.threshold if threshold is None else threshold))
            tables[-1]["sign"] = sign
        table = pd.concat(tables, ignore_index=True)
        return table.sort_values(["score", "y", "x"], ascending=[False, True, True], ignore_index=True)


def load_finder(options: DetectOptions) -> Finder | None:
    """The detector network that ``detect.method: finder`` names; None under another method.

    Raises
    ------
    ConfigError
        Not a file of a detector network.
    """
    return Finder(options.finder) if options.method == "finder" and options.finder else None


def peaks(maps: Mapping[str, np.ndarray], bad: np.ndarray, *, threshold: float) -> pd.DataFrame:
    """Sources at the maxima among 3 x 3 pixels of the heat: x, y [px], score, snr, highest score first.

    Parameters
    ----------
    maps : mapping
        As from `Finder.maps`.
    bad : numpy.ndarray
        bool (height, width); nothing is found there.
    threshold : float
        Heat at least; less than `LEAST_SCORE` is never looked at.
    """
    from scipy.ndimage import maximum_filter
    from scipy.spatial import cKDTree

    heat = maps["heat"]
    rows, columns = np.nonzero((heat == maximum_filter(heat, 3)) & (heat >= max(threshold, LEAST_SCORE)) & ~bad)
    dx, dy = (np.clip(maps[name][rows, columns], -MOST_OFFSET, MOST_OFFSET) for name in ("dx", "dy"))
    snr = np.exp(np.clip(maps["log_snr"][rows, columns].astype(float), -5, 15))
    table = pd.DataFrame({"x": columns + dx, "y": rows + dy, "score": heat[rows, columns], "snr": snr}).astype(float)
    table = table.sort_values(["score", "y", "x"], ascending=[False, True, True], ignore_index=True)
    places = table[["x", "y"]].to_numpy()
    pairs = cKDTree(places).query_pairs(SAME_PLACE) if len(places) else set()
    return table.drop(index=sorted({max(pair) for pair in pairs})).reset_index(drop=True)


def footprints(maps: Mapping[str, np.ndarray], sources: pd.DataFrame, *, seeing: float) -> list[np.ndarray]:
    """Pixels of each source: (n, 2) rows and columns, those of the footprint that are nearest to it within 2 FWHM.

    A source always has the pixel that it stands on.
    """
    from scipy.spatial import cKDTree

    if not len(sources):
        return []
    height, width = maps["heat"].shape
    rows, columns = np.nonzero(maps["footprint"] >= 0.5)
    places = sources[["x", "y"]].to_numpy(float)
    distance, owner = cKDTree(places).query(
        np.column_stack([columns, rows]).reshape(-1, 2), distance_upper_bound=2 * seeing
    )
    found = []
    for number, (x, y) in enumerate(places):
        mine = (owner == number) & np.isfinite(distance)
        own = [int(np.clip(np.floor(y + 0.5), 0, height - 1)), int(np.clip(np.floor(x + 0.5), 0, width - 1))]
        pixels = np.column_stack([rows[mine], columns[mine]]).reshape(-1, 2)
        found.append(np.unique(np.vstack([pixels, [own]]), axis=0))
    return found


def to_coco(
    sources: pd.DataFrame, pixels: list[np.ndarray], *, image: str, shape: tuple[int, int], image_id: int = 1
) -> dict[str, Any]:
    """Boxes and masks in the form of COCO's data sets (Lin et al. 2014, ECCV): images, annotations, categories.

    Boxes are x, y, width, height, where the first pixel reaches from 0 to 1; masks are run lengths, column by column,
    of pixels outside and inside in turn.
    """
    height, width = shape
    annotations = []
    for number, (source, own) in enumerate(zip(sources.to_dict("records"), pixels, strict=True), start=1):
        rows, columns = own[:, 0], own[:, 1]
        flat = np.zeros(height * width, dtype=np.int8)
        flat[columns * height + rows] = 1
        turns = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": 1,
                "bbox": [int(value) for value in box],
                "area": len(own),
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": np.diff([0, *turns, height * width]).tolist()},
                "score": float(source["score"]),
                "centre": [float(source["x"]) + 0.5, float(source["y"]) + 0.5],
            }
        )
    return {
        "images": [{"id": image_id, "file_name": image, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "transient"}],
    }
