"""A trained classifier at work: cutouts in, probabilities and decisions out.

Needs NumPy and ONNX Runtime only. The model is a file written by `otrain_core.networks.export_onnx`, which carries the
input stage, the threshold, the calibration and what the training set was like.
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
from otrain_core.errors import CubeError, first_line
from otrain_core.evaluation.abstain import Abstention
from otrain_core.evaluation.calibrate import Calibration

KEY = "otrain"  # of the metadata in a model file
FORMAT = 1
MAX_BYTES = 2**30  # of a model file; ours have below 20 MB
MAX_SIZE = 1024  # of a cutout [px]
MAX_CHANNELS = 32
BATCH = 64  # cutouts that fit into the cache of a core


_NOTHING = {name: np.empty(0) for name in DESCRIPTORS} | {"score": np.empty(0, np.float32), "reason": np.empty(0, "U1")}

Cutouts = np.ndarray | Mapping[str, Any] | Iterable[Any]


class Classifier:
    """A network with its threshold and calibration.

    Attributes
    ----------
    channels : list of str
        What the network reads, in the order of the last axis.
    size : int
        Side of its cutouts [px]; larger ones are cut about their pixel side // 2, which has the candidate.
    threshold : float or None
        A candidate is called True from this score on.
    calibration : otrain_core.evaluation.calibrate.Calibration
    abstention : otrain_core.evaluation.abstain.Abstention or None
    optional : list of str
        Channels that the network was trained to do without; of a cutout they may be missing.
    least_size : int
        Side [px] of the smallest cutouts that it takes, with a rim of missing pixels.
    about : dict
        All that the file holds, see `otrain_core.networks.export_onnx.model_record`.

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
            raise ValueError(f"a network reads one array (N, S, S, C), not {[item.shape for item in inputs]}")
        self._input = inputs[0].name
        self.about = dict(about)
        self.channels = [str(name) for name in about["channels"]]
        self.size = int(about["size"])
        if not 1 <= self.size <= MAX_SIZE or not 1 <= len(self.channels) <= MAX_CHANNELS:
            raise ValueError(f"size {self.size} or channels {self.channels[:MAX_CHANNELS]} are out of bounds")
        self.threshold = about.get("threshold") if threshold is None else float(threshold)
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
            ``model.onnx``. The file holds no code; see `otrain_core.classify.graph` for what it may ask for.
        threads : int
            CPU threads; one is best where images are worked on side by side.
        threshold : float, optional
            In place of the model's own; nothing is then left undecided.

        Raises
        ------
        CubeError
            No such file, not an ONNX model, too large, or not written by O'TRAIN.
        """
        data = _read(Path(path))
        try:
            session = open_graph(data, threads=threads)
            about = json.loads(session.get_modelmeta().custom_metadata_map.get(KEY, "null"))
        except CubeError as error:
            raise CubeError(f"{path}: {error}") from None
        except Exception as error:  # ONNX Runtime raises kinds of its own
            raise CubeError(f"{path}: not a readable ONNX model ({first_line(error)[:200]})") from None
        if not isinstance(about, dict) or not {"channels", "size"} <= about.keys():
            raise CubeError(
                f"{path}: an ONNX model without the metadata of O'TRAIN; write it with `otrain models export`"
            )
        if about.get("format") != FORMAT:
            raise CubeError(f"{path}: format {about.get('format')!r} of the metadata is not known to this version")
        try:
            return cls(session, about, threshold=threshold)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CubeError(f"{path}: its metadata cannot be used ({type(error).__name__}: {error})") from None

    def score(self, cutouts: Cutouts, *, batch: int = BATCH) -> np.ndarray:
        """Probability of True as the network gives it, not calibrated.

        Parameters
        ----------
        cutouts
            An array (N, S, S, C) with the channels of the model, or (N, S, S) of differences; a mapping of
            channels to arrays (N, S, S); a cube as `otrain_core.cubes.cube_format.read_cube` gives it, mapped into
            memory or not; or an iterable of any of these, which is read one by one. NaN, or masked,
            where a pixel is missing. The channel psf may be left out, and what is `optional`.
        batch : int
            Cutouts at a time, for which memory is needed.

        Returns
        -------
        numpy.ndarray
            float32 (N,)

        Raises
        ------
        CubeError
            A channel is missing, or the cutouts are smaller than those of the model.
        """
        scores = [self._run(block) for block, _ in self._blocks(cutouts, batch)]
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def classify(
        self, cutouts: Cutouts, *, seeing: np.ndarray | float | None = None, batch: int = BATCH
    ) -> dict[str, np.ndarray]:
        """Scores a person can act on.

        Parameters
        ----------
        cutouts, batch
            As for `score`.
        seeing : array or float, optional
            FWHM of the PSF of the image [px], where it is known: one number, or one for each cutout.

        Returns
        -------
        dict of numpy.ndarray
            (N,) ``score`` (of the network), ``probability`` (calibrated: of a hundred with 0.9, some ninety are True in
            a set balanced as the training set was), ``real`` (bool: at the threshold of the model or above),
            ``undecided`` (bool: too near to the threshold, see `otrain_core.evaluation.abstain`), ``reason`` (text: why
            the cutout is unlike the training set; empty where it is not), and what describes each cutout
            (`otrain_core.classify.descriptors.DESCRIPTORS`, NaN where it is not known).

        Raises
        ------
        CubeError
            As `score`, or a model without a threshold.
        """
        if self.threshold is None:
            raise CubeError("the model has no threshold of its own; give one (threshold=, --threshold)")
        statistics, parts = self.about.get("training") or {}, []
        known = None if seeing is None else np.asarray(seeing, dtype=float)
        done = 0
        for block, raw in self._blocks(cutouts, batch):
            score = self._run(block)
            widths = known[done : done + len(score)] if known is not None and known.ndim else known
            if widths is not None and widths.ndim and widths.shape != score.shape:
                raise CubeError(
                    f"seeing: one number, or one for each cutout, is needed, found {np.asarray(seeing).shape}"
                )
            if widths is None and "seeing" in raw:
                widths = raw["seeing"]
            described = describe(self._own(block, raw), self.channels, seeing=widths, science=self._science(raw))
            # What the network does not read does not make a cutout unlike.
            read = described if "science" in self.channels else described | {"background": np.full(len(score), np.nan)}
            reason = unlike(read, statistics).astype(object)
            for name in ("psf", "science", "reference"):
                if name in self.channels and name not in self.optional:
                    text = f"no {'PSF' if name == 'psf' else name} given, the model reads one"
                    lacking = ~np.isfinite(block[..., self.channels.index(name)]).any(axis=(1, 2))
                    for k in np.flatnonzero(lacking):
                        reason[k] = "; ".join(filter(None, [text, reason[k]]))
            parts.append({"score": score, "reason": reason, **described})
            done += len(score)
        if known is not None and known.ndim and len(known) != done:
            raise CubeError(f"seeing: {len(known)} numbers for {done} cutouts; one, or one for each, is needed")
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else _NOTHING
        score = found["score"]
        probability = self.calibration.apply(score)
        undecided = np.zeros(len(score), dtype=bool)
        if self.abstention is not None:
            undecided = (probability > self.abstention.low) & (probability < self.abstention.high)
        undecided |= np.isnan(score)
        for k in np.flatnonzero(np.isnan(score)):
            found["reason"][k] = "; ".join(filter(None, ["the model gives no number for it", found["reason"][k]]))
        decided = {
            "score": score,
            "probability": probability,
            "real": score >= self.threshold,
            "undecided": undecided,
            "reason": found["reason"].astype(str),
        }
        return decided | {name: found[name] for name in DESCRIPTORS}

    def _science(self, raw: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The science plane (n, S, S) that came with cutouts whose network does not read it."""
        if "science" in self.channels or "science" not in raw["channels"]:
            return None
        return select_inputs(raw, inputs=["science"], size=min(self.size, *raw["cube"].shape[1:3]))[..., 0]

    def _own(self, block: np.ndarray, raw: Mapping[str, np.ndarray]) -> np.ndarray:
        """The cutouts as the network reads them without the rim that smaller ones got."""
        side = min(self.size, *raw["cube"].shape[1:3])
        start = self.size // 2 - side // 2
        return block[:, start : start + side, start : start + side]

    def _run(self, block: np.ndarray) -> np.ndarray:
        output = run_graph(self._session, self._input, block)
        if output.ndim != 2 or len(output) != len(block) or output.shape[1] not in (1, 2) or output.dtype.kind != "f":
            raise CubeError(
                f"the model gives {output.dtype} {output.shape} for {len(block)} cutouts, not probabilities"
            )
        return np.ascontiguousarray(output[:, -1])  # two probabilities, or that of True alone

    def _blocks(self, cutouts: Cutouts, batch: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Blocks of at most `batch` cutouts as the network reads them, and the columns that came with them."""
        if not isinstance(cutouts, np.ndarray | Mapping):
            if isinstance(cutouts, str | bytes | Path) or not isinstance(cutouts, Iterable):
                raise CubeError(f"arrays of cutouts are needed, not {cutouts!r:.100}")
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
                    f"cutouts of shape {cube.shape} do not fit the channels {names}; (N, S, S, C) is needed"
                )
        else:
            planes = {name: _unmasked(values) for name, values in cutouts.items() if name not in SAMPLING}
            shapes = {plane.shape for plane in planes.values()}
            if len(shapes) != 1 or len(next(iter(shapes))) != 3:
                raise CubeError(f"channels of one shape (N, S, S) are needed, found {sorted(shapes)}")
            kept = {"cube": np.stack(list(planes.values()), axis=-1), "channels": np.array(list(planes))}
        for name in SAMPLING:
            if name in cutouts:
                column, n = np.asarray(cutouts[name], dtype=float), len(kept["cube"])
                if column.shape not in ((), (1,), (n,)):
                    raise CubeError(f"{name}: one number for each of the {n} cutouts is needed, found {column.shape}")
                kept[name] = np.broadcast_to(column, (n,))
        return kept


def _unmasked(values: Any) -> np.ndarray:
    """An array, mapped into memory or not; what a masked array masks is NaN."""
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(np.float32), np.nan)
    return np.asanyarray(values)


def _read(path: Path) -> bytes:
    """The bytes of a model: read as a whole, so that no reference to a file beside it can be followed."""
    if not path.is_file():
        raise CubeError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise CubeError(f"{path}: {path.stat().st_size / 2**30:.1f} GiB is too large for a model")
    return path.read_bytes()
