"""Measure the cost of `otrain2` and of the network of the paper: ``python -m tools.bench``.

Both networks run in one process and take turns, epoch by epoch, so that other load of the machine affects
both equally. Times are CPU seconds of this process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 5
FILES = 100  # FITS files that are read and scored


def bench_networks(
    *, size: int = 32, n_cutouts: int = 2048, rounds: int = ROUNDS, seed: int = 1
) -> list[dict[str, Any]]:
    """Operations, parameters, training and scoring speed of `otrain2` and of the network of the paper.

    The last rows compare ONNX Runtime with Keras, from memory and from FITS files.

    Each network is trained with the options of its experiment (for ``paper``: raw differences in batches of 1024), but
    with one pass per epoch. The cutouts are noise with a point source in every other one, because the speed does not
    depend on the pixel values.

    Parameters
    ----------
    size : int
        Side of the cutouts [px].
    n_cutouts : int
        Cutouts in an epoch.
    rounds : int
        Timed epochs of each network. A first epoch, in which the network is compiled, is not timed.
    seed : int

    Returns
    -------
    list of dict
        name, unit, ours, reference, ratio (ours / reference; of speeds the median over the rounds), note.
    """
    from otrain_core.networks.architecture import flops
    from otrain_core.plan.config import PAPER_EXPERIMENT, Experiment

    cutouts, labels = _cutouts(size, n_cutouts, np.random.default_rng(seed))
    runners = {
        "ours": _Runner(Experiment(), cutouts, labels, seed=seed, epochs=rounds + 1),
        "reference": _Runner(PAPER_EXPERIMENT, cutouts, labels, seed=seed, epochs=rounds + 1),
    }
    times = {(name, what): [] for name in runners for what in ("train", "score")}
    for number in range(rounds + 1):
        for name, runner in runners.items():
            for what, work in (("train", runner.epoch), ("score", runner.score)):
                started = time.process_time()
                work(number + 1)
                if number:
                    times[name, what].append(time.process_time() - started)
    note = f"{size} x {size} px"
    rows = []
    for label, unit, count in (
        ("operations for one cutout", "MFLOP", lambda model: flops(model) / 1e6),
        ("parameters", "", lambda model: model.count_params()),
    ):
        ours, reference = (float(count(runners[name].model)) for name in ("ours", "reference"))
        rows.append(_row(label, unit, ours, reference, ours / reference, note))
    for what, label in (("train", "cutouts trained"), ("score", "cutouts scored")):
        ours, reference = (n_cutouts / np.array(times[name, what]) for name in ("ours", "reference"))
        spread = f"{note}; median of {rounds} rounds, ratios {min(ours / reference):.2f} to {max(ours / reference):.2f}"
        ratio = float(np.median(ours / reference))
        rows.append(_row(label, "1/CPU s", float(np.median(ours)), float(np.median(reference)), ratio, spread))
    return [*rows, *_runtime(runners["ours"].model, cutouts, rounds)]


def _runtime(model: Any, cutouts: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """Compare scoring by `otrain_core.classify.classifier` with ``model.predict``, in turns, on one thread each.

    First from memory, then from FITS files. The classifier reads these in blocks; Keras reads and scores one file at a
    time, like the original O'TRAIN.
    """
    import tempfile

    from otrain_core.classify.classifier import Classifier
    from otrain_core.cubes.cutout_files import find_cutouts, read_blocks, read_cutout, write_cutouts
    from otrain_core.networks.export_onnx import export_model
    from otrain_core.networks.predict import score_cutouts

    def in_blocks(paths: list[Path]) -> None:
        for planes, _ in read_blocks(paths):
            classifier.classify(planes)

    def one_by_one(paths: list[Path]) -> None:
        for path in paths:
            planes, _ = read_cutout(path, strict=False)
            score_cutouts(model, np.stack([planes["difference"], planes["psf"]], axis=-1)[None])

    with tempfile.TemporaryDirectory() as folder:
        export_model(model, Path(folder, "model.onnx"))
        classifier = Classifier.load(Path(folder, "model.onnx"), threshold=0.5)
        some = cutouts[:FILES]
        cube = {"cube": some, "channels": ["difference", "psf"], "labels": np.ones(len(some), int)}
        write_cutouts(cube | {"candids": np.arange(len(some)).astype(str)}, folder)
        paths = find_cutouts(Path(folder, "True"))
        keras = ("reference", lambda part: score_cutouts(model, part))
        return [
            _in_turns("scored by ONNX Runtime, Keras", (("ours", classifier.score), keras), cutouts, rounds),
            _in_turns("FITS files classified", (("ours", in_blocks), ("reference", one_by_one)), paths, rounds),
        ]


def _in_turns(label: str, ways: Any, work: Any, rounds: int) -> dict[str, Any]:
    speeds: dict[str, list[float]] = {name: [] for name, _ in ways}
    for number in range(rounds + 1):
        for name, way in ways:
            started = time.process_time()
            way(work)
            if number:
                speeds[name].append(len(work) / (time.process_time() - started))
    ratios = np.array(speeds["ours"]) / speeds["reference"]
    note = f"otrain2 in both; median of {rounds} rounds, ratios {ratios.min():.2f} to {ratios.max():.2f}"
    ours, reference = (float(np.median(speeds[name])) for name in speeds)
    return _row(label, "1/CPU s", ours, reference, float(np.median(ratios)), note)


def _row(name: str, unit: str, ours: float, reference: float, ratio: float, note: str) -> dict[str, Any]:
    return {"name": name, "unit": unit, "ours": ours, "reference": reference, "ratio": ratio, "note": note}


def _cutouts(size: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cutouts with the channels difference and psf, and their labels."""
    from astropy.modeling.models import Gaussian2D

    y, x = np.mgrid[:size, :size]
    star = Gaussian2D(1.0, size // 2, size // 2, 1.5, 1.5)(x, y)
    cutouts = np.stack([rng.normal(0.0, 1.0, (n, size, size)), np.broadcast_to(star, (n, size, size))], axis=-1)
    cutouts[::2, :, :, 0] += 10 * star
    cutouts = cutouts.astype(np.float32)
    return cutouts, (np.arange(n) % 2 == 0).astype(np.int32)


class _Runner:
    """A network that is trained one epoch at a time."""

    def __init__(self, experiment, cutouts: np.ndarray, labels: np.ndarray, *, seed: int, epochs: int):
        from otrain_core.networks import architecture
        from otrain_core.networks.devices import prepare_device
        from otrain_core.networks.loop import Loop
        from otrain_core.networks.predict import score_cutouts

        prepare_device()
        architecture.keras.utils.set_random_seed(seed)
        self.model = architecture.build_network(experiment, size=cutouts.shape[1])
        cutouts = cutouts[..., : len(experiment.inputs)]
        stage = architecture.keras.Model(self.model.input, architecture.input_stage(self.model).output)
        data = (np.asarray(stage.predict(cutouts, batch_size=256, verbose=0)), labels)
        few = (data[0][:64], labels[:64])  # validation set of each epoch, small so that it takes no time
        body = architecture.without_input_stage(self.model)
        # One pass per epoch for both networks: by default `otrain2` repeats a small training set within an epoch.
        timed = experiment.model_copy(update={"epochs": epochs, "min_batches": 1})
        self.loop = Loop(body, data, few, experiment=timed, seed=seed, weights=None)
        self.cutouts, self._score = cutouts, score_cutouts

    def epoch(self, number: int) -> None:
        self.loop.epoch(number)

    def score(self, number: int) -> None:
        self._score(self.model, self.cutouts)


def main(path: str = "results/bench.json", *, n_cutouts: int = 2048) -> int:
    """Measure, write the results as JSON (with versions and number of cores) and print them."""
    from otrain_core.io import write_json
    from otrain_core.jobs.provenance import provenance

    rows = bench_networks(n_cutouts=n_cutouts)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rows)
    write_json(Path(path).with_suffix(".about.json"), provenance())
    for row in rows:
        print(
            f"{row['name']:28s} {row['ours']:12.4g} {row['reference']:12.4g} {row['unit']:8s} ratio {row['ratio']:.3f}"
        )
    print(f"ours: otrain2; reference: the network of Makhlouf et al. 2022; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
