"""Detection of transients with the detector network: ONNX Runtime on tiles of an image, and sources from the maps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.candidates.planes import PLANES, Planes
from otrain_core.classify.classifier import KEY, check_threshold
from otrain_core.classify.graph import open_graph, run_graph
from otrain_core.errors import ConfigError, CubeError, first_line
from otrain_core.results import number as number_in

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import DetectOptions

FORMAT = "otrain-finder-1"
MAPS = ("heat", "dx", "dy", "log_snr", "footprint")  # outputs of the network for each pixel
TILE = 512  # side of the tiles of an image [px]; the maps do not depend on it
MOST_OFFSET = 1.0  # largest offset of a source from its pixel [px]
SAME_PLACE = 0.5  # sources closer than this count as one [px]
LEAST_SCORE = 0.02  # peaks below this score are ignored


class Finder:
    """A detector network, read from a file.

    Parameters
    ----------
    path : path-like
        ONNX file written by `otrain_core.networks.finder.export_finder`.
    threads : int
        CPU threads.

    Attributes
    ----------
    about : dict
        Metadata: reach (radius of the receptive field of a pixel [px]), threshold (score that gives one false alarm per
        image of the validation set), and the data that the network was trained on.

    Raises
    ------
    ConfigError
        The file does not contain a detector network of this version.
    """

    def __init__(self, path: str | Path, *, threads: int = 1):
        self.path = str(path)
        try:
            self._session = open_graph(Path(path).read_bytes(), threads=threads)
            about = json.loads(self._session.get_modelmeta().custom_metadata_map.get(KEY, "{}"))
        except (FileNotFoundError, IsADirectoryError):
            raise ConfigError(f"{path}: no such file; give the file of a detector network (finder.onnx)") from None
        except Exception as error:  # ONNX Runtime raises its own types
            raise ConfigError(f"{path}: not a readable detector network ({first_line(error)})") from None
        made = about.get("format") if isinstance(about, dict) else None
        if made != FORMAT or list(about.get("planes", [])) != list(PLANES):
            other = "one of another version" if str(made).startswith("otrain-finder") else "another model"
            raise ConfigError(f"{path}: not a detector network of this version (finder.onnx), but {other}")
        if not (0 <= number_in(about, "threshold") <= 1 and number_in(about, "reach") >= 0):
            raise ConfigError(f"{path}: the detector network has no threshold from 0 to 1, or no reach; train it again")
        self.about: Mapping[str, Any] = about
        self._input = self._session.get_inputs()[0].name

    @property
    def threshold(self) -> float:
        """Lowest score of a candidate."""
        return float(self.about["threshold"])

    def maps(self, planes: Planes, *, tile: int = TILE) -> dict[str, np.ndarray]:
        """Compute the maps of an image, by name (`MAPS`): float32 (height, width).

        heat and footprint lie between 0 and 1; (dx, dy) is the offset from the pixel to the source [px]. Each map is the
        mean over the image and the image rotated by 180 degrees, because the errors of the network differ between the
        two. Tiles overlap by the reach of the network, so that the maps are the same as for the whole image at once.

        Raises
        ------
        CubeError
            The network needs too much time or memory, or its maps have a wrong shape.
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
        """Mean of the maps of a tile and of the tile rotated by 180 degrees: (height, width, maps)."""
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
        """Find the sources of an image, highest score first.

        Parameters
        ----------
        planes : Planes
            Planes of the image; the difference may be None.
        threshold : float, optional
            Lowest score, 0 to 1 (default: the threshold of the network).
        both_signs : bool
            Also find fading sources, in a second pass with science and reference image exchanged.
        tile : int
            Side of the tiles [px].

        Returns
        -------
        pandas.DataFrame
            x, y [px], score (0 to 1), snr, sign (1, or -1 for fading sources).

        Raises
        ------
        ConfigError
            The threshold is not a number from 0 to 1.
        """
        threshold = self.threshold if threshold is None else check_threshold(threshold)
        tables = []
        for sign in (1, -1) if both_signs else (1,):
            maps = self.maps(planes if sign == 1 else planes.swapped(), tile=tile)
            tables.append(peaks(maps, planes.bad, threshold=threshold))
            tables[-1]["sign"] = sign
        table = pd.concat(tables, ignore_index=True)
        return table.sort_values(["score", "y", "x"], ascending=[False, True, True], ignore_index=True)


def load_finder(options: DetectOptions) -> Finder | None:
    """Load the detector network named by ``detect.finder``; None unless ``detect.method`` is ``finder``.

    Raises
    ------
    ConfigError
        The file does not contain a detector network of this version.
    """
    return Finder(options.finder) if options.method == "finder" and options.finder else None


def peaks(maps: Mapping[str, np.ndarray], bad: np.ndarray, *, threshold: float) -> pd.DataFrame:
    """Find sources at the local maxima (3 x 3 pixels) of the heat: x, y [px], score, snr, highest score first.

    Parameters
    ----------
    maps : mapping
        From `Finder.maps`.
    bad : numpy.ndarray
        bool (height, width), True where no sources are to be found.
    threshold : float
        Lowest heat; peaks below `LEAST_SCORE` are always ignored.
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
    """Assign each pixel of the footprint map to its nearest source within 2 FWHM: (n, 2) rows and columns per source.

    The pixel at the position of a source always belongs to it.
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
    """Convert sources to boxes and masks in the COCO format (Lin et al. 2014, ECCV): images, annotations, categories.

    Boxes are x, y, width, height, where the first pixel extends from 0 to 1. Masks are run lengths in column order, of
    pixels outside and inside the mask in turn.
    """
    height, width = shape
    annotations = []
    for number, (source, own) in enumerate(zip(sources.to_dict("records"), pixels, strict=True), start=1):
        rows, columns = own[:, 0], own[:, 1]
        flat = np.zeros(height * width, dtype=np.int8)
        flat[columns * height + rows] = 1
        edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": 1,
                "bbox": [int(value) for value in box],
                "area": len(own),
                "iscrowd": 0,
                "segmentation": {"size": [height, width], "counts": np.diff([0, *edges, height * width]).tolist()},
                "score": float(source["score"]),
                "centre": [float(source["x"]) + 0.5, float(source["y"]) + 0.5],
            }
        )
    return {
        "images": [{"id": image_id, "file_name": image, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "transient"}],
    }
