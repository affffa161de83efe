"""Classification of cutouts with a trained model: probabilities and decisions.

Only NumPy and ONNX Runtime are needed. The model is a file written by `otrain_core.networks.export_onnx`. It contains the
input stage, the threshold, the calibration and statistics of the training set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.classify.descriptors import DESCRIPTORS, describe, unlike
from otrain_core.classify.graph import open_graph, run_graph
from otrain_core.cubes.inputs import SAMPLING, select_inputs
from otrain_core.errors import ConfigError, CubeError, first_line
from otrain_core.evaluation.abstain import Abstention
from otrain_core.evaluation.calibrate import Calibration

KEY = "otrain"  # key of the metadata in a model file
FORMAT = 1
MAX_BYTES = 2**30  # largest model file; those of O'TRAIN are below 20 MB
MAX_SIZE = 1024  # largest side of a cutout [px]
MAX_CHANNELS = 32
BATCH = 64  # number of cutouts that fits into the cache of a core


_NOTHING = {name: np.empty(0) for name in DESCRIPTORS} | {"score": np.empty(0, np.float32), "reason": np.empty(0, "U1")}

Cutouts = np.ndarray | Mapping[str, Any] | Iterable[Any]


class Classifier:
    """A trained network with its threshold and calibration.

    Attributes
    ----------
    channels : list of str
        Channels that the network reads, in the order of the last axis.
    size : int
        Side of its cutouts [px]. Larger cutouts are trimmed around pixel side // 2, the position of the candidate.
    threshold : float or None
        A candidate is called True if its score is at least this value.
    calibration : otrain_core.evaluation.calibrate.Calibration
    abstention : otrain_core.evaluation.abstain.Abstention or None
    optional : list of str
        Channels that may be missing, because the network was trained with and without them.
    least_size : int
        Side [px] of the smallest cutouts that are accepted; they are padded with missing pixels.
    about : dict
        All metadata of the file, see `otrain_core.networks.export_onnx.model_record`.

    Examples
    --------
    >>> classifier = Classifier.load("model.onnx")                        # doctest: +SKIP
    >>> found = classifier.classify({"difference": cutouts, "psf": psfs})  # doctest: +SKIP
    >>> found["probability"], found["real"], found["undecided"], found["reason"]  # doctest: +SKIP
    """

    def __init__(self, session: Any, about: Mapping[str, Any], *, threshold: float | None = None):
        self._session = session
        inputs = session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise ValueError(f"the network must have one input (N, S, S, C), not {[item.shape for item in inputs]}")
        self._input = inputs[0].name
        self.about = dict(about)
        self.channels = [str(name) for name in about["channels"]]
        self.size = int(about["size"])
        if not 1 <= self.size <= MAX_SIZE or not 1 <= len(self.channels) <= MAX_CHANNELS:
            raise ValueError(f"size {self.size} or channels {self.channels[:MAX_CHANNELS]} are out of bounds")
        chosen = about.get("threshold") if threshold is None else threshold
        self.threshold = None if chosen is None else check_threshold(chosen)
        self.calibration = Calibration.from_record(about["calibration"]) if about.get("calibration") else Calibration()
        self.optional = [str(name) for name in about.get("optional") or ()]
        self.least_size = int(about.get("least_size") or self.size)
        rule = about.get("abstention") if threshold is None else None
        self.abstention = Abstention(**rule) if rule and None not in rule.values() else None

    @classmethod
    def load(cls, path: str | Path, *, threads: int = 1, threshold: float | None = None) -> Classifier:
        """Read a model.

        Parameters
        ----------
        path : path-like
            ``model.onnx``. The file contains no code; `otrain_core.classify.graph` limits its operators, memory and time.
        threads : int
            CPU threads. One is best if several images are processed at the same time.
        threshold : float, optional
            Used instead of the threshold of the model, 0 to 1; no candidate is then left undecided.

        Raises
        ------
        CubeError
            The file does not exist, is not an ONNX model, is too large, or was not written by O'TRAIN.
        ConfigError
            The threshold is not a number from 0 to 1.
        """
        if threshold is not None:
            threshold = check_threshold(threshold)
        data = _read(Path(path))
        try:
            session = open_graph(data, threads=threads)
            about = json.loads(session.get_modelmeta().custom_metadata_map.get(KEY, "null"))
        except CubeError as error:
            raise CubeError(f"{path}: {error}") from None
        except Exception as error:  # ONNX Runtime raises its own types
            raise CubeError(f"{path}: not a readable ONNX model ({first_line(error)[:200]})") from None
        if not isinstance(about, dict) or not {"channels", "size"} <= about.keys():
            raise CubeError(
                f"{path}: this ONNX model has no metadata of O'TRAIN; write the model with `otrain models export`"
            )
        if about.get("format") != FORMAT:
            raise CubeError(f"{path}: this version does not know format {about.get('format')!r} of the metadata")
        try:
            return cls(session, about, threshold=threshold)
        except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
            raise CubeError(f"{path}: its metadata cannot be used ({type(error).__name__}: {error})") from None

    def score(self, cutouts: Cutouts, *, batch: int = BATCH) -> np.ndarray:
        """Score of each cutout: the probability of True that the network gives, not calibrated.

        Parameters
        ----------
        cutouts
            One of: an array (N, S, S, C) with the channels of the model, or (N, S, S) with difference cutouts; a
            mapping of channel names to arrays (N, S, S); a cube as returned by
            `otrain_core.cubes.cube_format.read_cube`, also if it is memory-mapped; an iterable of these, which is
            processed item by item. Missing pixels are NaN or masked. The channel psf and the channels in `optional` may
            be omitted.
        batch : int
            Number of cutouts that are processed, and held in memory, at a time.

        Returns
        -------
        numpy.ndarray
            float32 (N,)

        Raises
        ------
        CubeError
            A channel is missing, or the cutouts are smaller than the model accepts.
        """
        scores = [self._run(block) for block, _ in self._blocks(cutouts, batch)]
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def classify(
        self, cutouts: Cutouts, *, seeing: np.ndarray | float | None = None, batch: int = BATCH
    ) -> dict[str, np.ndarray]:
        """Calibrated probabilities and decisions for cutouts.

        Parameters
        ----------
        cutouts, batch
            As for `score`.
        seeing : array or float, optional
            FWHM of the PSF of the image [px], if it is known: one number, or one per cutout.

        Returns
        -------
        dict of numpy.ndarray
            Arrays (N,): ``score`` (of the network), ``probability`` (calibrated: about 90 of 100 candidates with 0.9
            are True, if the classes are as frequent as in the training set), ``real`` (bool: the score is at least the
            threshold), ``undecided`` (bool: too close to the threshold, see `otrain_core.evaluation.abstain`),
            ``reason`` (text: why the cutout is unlike the training set, or empty), and the descriptors of each cutout
            (`otrain_core.classify.descriptors.DESCRIPTORS`, NaN if unknown).

        Raises
        ------
        CubeError
            As `score`; or the model has no threshold.
        """
        if self.threshold is None:
            raise CubeError("the model has no threshold of its own; give one with threshold= or --threshold")
        statistics, parts = self.about.get("training") or {}, []
        known = None if seeing is None else np.asarray(seeing, dtype=float)
        done = 0
        for block, raw in self._blocks(cutouts, batch):
            score = self._run(block)
            widths = known[done : done + len(score)] if known is not None and known.ndim else known
            if widths is not None and widths.ndim and widths.shape != score.shape:
                raise CubeError(
                    f"seeing: give one number, or one per cutout, not an array of shape {np.asarray(seeing).shape}"
                )
            if widths is None and "seeing" in raw:
                widths = raw["seeing"]
            described = describe(self._own(block, raw), self.channels, seeing=widths, science=self._science(raw))
            # The background cannot make a cutout unlike the training set if the network does not read the science image.
            read = described if "science" in self.channels else described | {"background": np.full(len(score), np.nan)}
            reason = unlike(read, statistics).astype(object)
            for name in ("psf", "science", "reference"):
                if name in self.channels and name not in self.optional:
                    text = f"no {'PSF' if name == 'psf' else name} given, but the model reads one"
                    lacking = ~np.isfinite(block[..., self.channels.index(name)]).any(axis=(1, 2))
                    for k in np.flatnonzero(lacking):
                        reason[k] = "; ".join(filter(None, [text, reason[k]]))
            parts.append({"score": score, "reason": reason, **described})
            done += len(score)
        if known is not None and known.ndim and len(known) != done:
            raise CubeError(f"seeing: {len(known)} numbers for {done} cutouts; give one number, or one per cutout")
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else _NOTHING
        score = found["score"]
        probability = self.calibration.apply(score)
        undecided = np.zeros(len(score), dtype=bool)
        if self.abstention is not None:
            undecided = (probability > self.abstention.low) & (probability < self.abstention.high)
        undecided |= np.isnan(score)
        for k in np.flatnonzero(np.isnan(score)):
            found["reason"][k] = "; ".join(filter(None, ["the model gives no score", found["reason"][k]]))
        decided = {
            "score": score,
            "probability": probability,
            "real": score >= self.threshold,
            "undecided": undecided,
            "reason": found["reason"].astype(str),
        }
        return decided | {name: found[name] for name in DESCRIPTORS}

    def _science(self, raw: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Science plane (n, S, S) of the cutouts if the network does not read it, else None."""
        if "science" in self.channels or "science" not in raw["channels"]:
            return None
        return select_inputs(raw, inputs=["science"], size=min(self.size, *raw["cube"].shape[1:3]))[..., 0]

    def _own(self, block: np.ndarray, raw: Mapping[str, np.ndarray]) -> np.ndarray:
        """Cutouts as the network reads them, without the padding of smaller ones."""
        side = min(self.size, *raw["cube"].shape[1:3])
        start = self.size // 2 - side // 2
        return block[:, start : start + side, start : start + side]

    def _run(self, block: np.ndarray) -> np.ndarray:
        output = run_graph(self._session, self._input, block)
        if output.ndim != 2 or len(output) != len(block) or output.shape[1] not in (1, 2) or output.dtype.kind != "f":
            raise CubeError(
                f"the model returns {output.dtype} {output.shape} for {len(block)} cutouts, not probabilities"
            )
        return np.ascontiguousarray(output[:, -1])  # two probabilities, or that of True alone

    def _blocks(self, cutouts: Cutouts, batch: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Blocks of at most `batch` cutouts as the network reads them, and the columns that came with them."""
        if not isinstance(cutouts, np.ndarray | Mapping):
            if isinstance(cutouts, str | bytes | Path) or not isinstance(cutouts, Iterable):
                raise CubeError(f"cutouts: must be arrays, not {cutouts!r:.100}")
            for part in cutouts:
                yield from self._blocks(part, batch)
            return
        cube = self._as_cube(cutouts)
        n = len(cube["cube"])
        for start in range(0, n, batch):
            rows = slice(start, min(start + batch, n))
            # A slice of a cube in memory or mapped into it: nothing is copied beyond the block.
            part = {key: value if key == "channels" else value[rows] for key, value in cube.items()}
            optional = [*self.optional, "psf"]
            yield (
                select_inputs(part, inputs=self.channels, size=self.size, optional=optional, least=self.least_size),
                part,
            )

    def _as_cube(self, cutouts: np.ndarray | Mapping[str, Any]) -> dict[str, np.ndarray]:
        if isinstance(cutouts, np.ndarray):
            cutouts = _unmasked(cutouts)
            if cutouts.ndim == 3:
                return {"cube": cutouts[..., None], "channels": np.array(["difference"])}
            channels = self.channels if cutouts.ndim == 4 and cutouts.shape[3] == len(self.channels) else ["difference"]
            cutouts = {"cube": cutouts, "channels": channels}
        if "cube" in cutouts:
            cube = _unmasked(cutouts["cube"])
            kept = {"cube": cube, "channels": np.atleast_1d(np.asarray(cutouts["channels"]))}
            if cube.ndim != 4 or cube.shape[3] != len(kept["channels"]):
                names = ", ".join(kept["channels"])
                raise CubeError(
                    f"cutouts of shape {cube.shape} do not fit the channels {names}; the shape must be (N, S, S, C)"
                )
        else:
            planes = {name: _unmasked(values) for name, values in cutouts.items() if name not in SAMPLING}
            shapes = {plane.shape for plane in planes.values()}
            if len(shapes) != 1 or len(next(iter(shapes))) != 3:
                raise CubeError(f"all channels must have one shape (N, S, S), not {sorted(shapes)}")
            kept = {"cube": np.stack(list(planes.values()), axis=-1), "channels": np.array(list(planes))}
        for name in SAMPLING:
            if name in cutouts:
                column, n = np.asarray(cutouts[name], dtype=float), len(kept["cube"])
                if column.shape not in ((), (1,), (n,)):
                    raise CubeError(f"{name}: give one number, or one for each of the {n} cutouts, not {column.shape}")
                kept[name] = np.broadcast_to(column, (n,))
        return kept


def check_threshold(threshold: float) -> float:
    """Return a decision threshold as a float.

    Raises
    ------
    ConfigError
        It is not a number from 0 to 1.
    """
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = np.nan
    if not 0 <= value <= 1:  # NaN too: no score reaches it, so that every candidate would be called False
        raise ConfigError(f"threshold: must be a number from 0 to 1, not {threshold}")
    return value


def _unmasked(values: Any) -> np.ndarray:
    """Values as an array, memory-mapped or not; the masked values of a masked array become NaN."""
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(np.float32), np.nan)
    return np.asanyarray(values)


def _read(path: Path) -> bytes:
    """Bytes of a model file. ONNX Runtime gets the bytes, not the path, so that it cannot read other files beside it."""
    if not path.is_file():
        raise CubeError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise CubeError(f"{path}: {path.stat().st_size / 2**30:.1f} GiB is too large for a model")
    return path.read_bytes()
