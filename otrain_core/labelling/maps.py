"""Pictures of the labelling page: cutouts as PNG, and Grad-CAM maps from a process of their own."""

from __future__ import annotations

import io
import multiprocessing
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.figures.galleries import robust_limits

MISSING = (0xD9, 0xC2, 0xA0)  # pixels without a value, as in the galleries
_KEPT = 4000  # maps in memory, 4 MB of 32 px cutouts
_BATCH = 8


def grey_levels(cutout: np.ndarray) -> np.ndarray:
    """uint8 (S, S) of a cutout, stretched as in the galleries; missing pixels are 0."""
    low, high = robust_limits(cutout)
    return (255 * np.clip(np.nan_to_num((cutout - low) / (high - low)), 0, 1)).astype(np.uint8)


def cutout_png(cutout: np.ndarray) -> bytes:
    """A cutout as it stands in the galleries: first row below, missing pixels tinted, one pixel for each of its own."""
    return _png(_coloured(cutout))


def map_png(cutout: np.ndarray, heat: np.ndarray) -> bytes:
    """A Grad-CAM map laid over its cutout, half and half, as in the galleries."""
    from matplotlib import colormaps

    colours = colormaps["inferno"](heat)[..., :3] * 255
    return _png((0.5 * _coloured(cutout) + 0.5 * colours).astype(np.uint8))


def _coloured(cutout: np.ndarray) -> np.ndarray:
    picture = np.repeat(grey_levels(cutout)[..., None], 3, axis=2)
    picture[~np.isfinite(cutout)] = MISSING
    return picture


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture[::-1])).save(file, "PNG")
    return file.getvalue()


class GradCamMaps:
    """Grad-CAM maps on request, computed one after the other in a process that imports TensorFlow.

    The process starts with the first request, and ends with this one however this one ends.
    What fails there says so in place of a map, and no answer is lost with it.
    """

    def __init__(self):
        self._maps: OrderedDict[Any, Any] = OrderedDict()
        self._wanted: OrderedDict[Any, tuple[Path, dict[str, np.ndarray]]] = OrderedDict()
        self._busy: set[Any] = set()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def get(self, key: Any, model: Path, cutout: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
        """The map of one cutout, None where it is not ready: ask again.

        Parameters
        ----------
        key : hashable
            Of the cutout.
        model : Path
        cutout : mapping
            A cube of one row.

        Returns
        -------
        dict or None
            ``map`` float32 (S, S), ``called`` (0 or 1, what it speaks for) and ``fallback``, see
            `otrain_core.networks.explain.grad_cam`; or ``error``, why there is none.
        """
        with self._change:
            if key in self._maps:
                self._maps.move_to_end(key)
                return self._maps[key]
            if key in self._busy:
                return None
            self._wanted[key] = (model, {name: np.array(value) for name, value in cutout.items()})
            self._wanted.move_to_end(key)
            if len(self._wanted) > _KEPT:  # the page asks again for what it shows
                self._wanted.popitem(last=False)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._change.notify()
        return None

    def _run(self) -> None:
        context = multiprocessing.get_context("spawn")
        pipe: Any = None
        process: Any = None
        while True:
            with self._change:
                while not self._wanted:
                    self._change.wait()
                # The last asked for is what somebody looks at now.
                batch = [self._wanted.popitem() for _ in range(min(_BATCH, len(self._wanted)))]
                self._busy = {key for key, _ in batch}
            try:
                if process is None or not process.is_alive():
                    pipe, child = context.Pipe()
                    process = context.Process(target=_compute, args=(child,), daemon=True)
                    process.start()
                    child.close()
                pipe.send([item for _, item in batch])
                found = pipe.recv()
            except Exception as error:  # whatever it is, the page goes on
                found = [{"error": f"the process of Grad-CAM ended ({error or type(error).__name__})"}] * len(batch)
                process = None
            with self._change:
                self._busy = set()
                self._maps.update((key, result) for (key, _), result in zip(batch, found, strict=True))
                while len(self._maps) > _KEPT:
                    self._maps.popitem(last=False)


def _compute(pipe) -> None:
    """Loop of the process: maps for every list of models and cutouts that comes through the pipe."""
    import signal
    from multiprocessing.connection import wait

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            wait([parent.sentinel])
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()  # at once, also while TensorFlow is imported

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    models: dict[Path, Any] = {}
    while True:
        try:
            wanted = pipe.recv()
        except EOFError:
            return
        found: list[dict[str, Any]] = [{}] * len(wanted)
        for path in {path for path, _ in wanted}:  # of one network and so of one cube: all at once
            mine = [k for k, (of, _) in enumerate(wanted) if of == path]
            for k, result in zip(mine, _maps_of(models, path, [wanted[k][1] for k in mine]), strict=True):
                found[k] = result
        pipe.send(found)


def _maps_of(models: dict[Path, Any], path: Path, cutouts: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    try:
        from otrain_core.cubes.inputs import select_inputs
        from otrain_core.networks.architecture import input_stage, load_model
        from otrain_core.networks.explain import grad_cam

        if path not in models:
            models[path] = load_model(path)
        model = models[path]
        inputs, size = input_stage(model).channels, model.input_shape[1]
        read = np.concatenate([select_inputs(cutout, inputs=inputs, size=size) for cutout in cutouts])
        found = grad_cam(model, read)
        side, size = cutouts[0]["cube"].shape[1], read.shape[1]
        heat = np.zeros((len(read), side, side), np.float32)
        first = side // 2 - size // 2  # a network may see less than the cutout that is shown
        heat[:, first : first + size, first : first + size] = found["resized"]
        return [
            {"map": heat[k], "called": int(found["called"][k]), "fallback": bool(found["fallback"][k])}
            for k in range(len(read))
        ]
    except Exception as error:  # whatever it is, the page goes on without these maps
        text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
        return [{"error": text}] * len(cutouts)
