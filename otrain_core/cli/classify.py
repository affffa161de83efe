"""The verb ``classify`` of the command ``otrain``: score candidates and write a table."""

from __future__ import annotations

import csv
import io as text_io
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.classify.shipped import NAME as SHIPPED
from otrain_core.errors import CubeError, OtrainError, UpstreamFailed
from otrain_core.evaluation.words import decisions
from otrain_core.io import guarded
from otrain_core.safe import plain

LARGEST_CUTOUT = 256  # [px]; a single larger FITS file is probably an image


def classify(arguments: Namespace) -> tuple[int, Any, str]:
    """Score candidates; the table is written block by block.

    Returns
    -------
    tuple
        Exit status, record for ``--json``, and text.
    """
    classifier = load_classifier(arguments)
    counts = dict.fromkeys(("n", "real", "undecided", "unlike_training"), 0)
    extremes = None
    if arguments.gallery:
        from otrain_core.figures.galleries import Extremes

        extremes = Extremes()
    rows: list[dict[str, Any]] | None = [] if arguments.json and not arguments.output else None
    skipped = Skipped()
    with _table(arguments) as write:
        for columns, cutouts in candidates(arguments, classifier.size, skipped):
            found = classifier.classify(cutouts)
            counts["n"] += len(found["score"])
            counts["real"] += int(np.sum(found["real"] & ~found["undecided"]))
            counts["undecided"] += int(np.sum(found["undecided"]))
            counts["unlike_training"] += int(np.sum(found["reason"] != ""))
            block = columns | found
            if extremes is not None:
                extremes.add(cutouts, found["probability"], columns.get("candid", found["reason"]))
            table = [{key: values[k] for key, values in block.items()} for k in range(len(found["score"]))]
            if rows is None:
                write(list(block), table)
            else:
                rows += table
            _progress(arguments, counts["n"])
    about = {key: classifier.about.get(key) for key in ("telescope", "pipeline", "experiment", "seed", "commit")}
    record = {"model": about | {"threshold": classifier.threshold}, **counts}
    words = f"{decisions(counts)}; {counts['unlike_training']} unlike the training set"
    text = f"{arguments.output}: {words}" if arguments.output else ""
    if extremes is not None and extremes.kept:
        from otrain_core.figures.canvas import save_figure

        save_figure(arguments.gallery, extremes.gallery().plot().figure_)
    if not arguments.output and not arguments.json and not arguments.quiet:
        print(words, file=sys.stderr)
    record |= {"left_out": skipped.left_out, "refused": skipped.refused}
    return int(bool(skipped.refused)), record | ({} if rows is None else {"candidates": rows}), text


@contextmanager
def _table(arguments: Namespace) -> Iterator[Callable[[list[str], list[dict[str, Any]]], None]]:
    """A function that writes rows as CSV to the file or to standard output; the file appears when it is complete."""
    from otrain_core.io import atomic

    started: list[list[str]] = []
    with ExitStack() as stack:
        file = sys.stdout
        if arguments.output:
            temporary = stack.enter_context(atomic(arguments.output))
            file = stack.enter_context(open(temporary, "w", newline="", encoding="utf-8"))

        def write(columns: list[str], rows: list[dict[str, Any]]) -> None:
            if not started:  # a table without candidates has a header, too
                started.append(columns)
                file.write(_csv([dict(zip(columns, columns, strict=True))], columns))
            file.write(_csv(rows, started[0]))

        yield write


def _progress(arguments: Namespace, number: int) -> None:
    if not arguments.quiet and sys.stderr.isatty() and (arguments.output or arguments.json):
        print(f"\r{number} candidates ", end="", file=sys.stderr, flush=True)


def load_classifier(arguments: Namespace):
    """The classifier given by --model; a Keras model is converted to ONNX first.

    Returns
    -------
    otrain_core.classify.classifier.Classifier
    """
    from otrain_core.classify.classifier import Classifier
    from otrain_core.registry.models import find_model

    options = {"threads": arguments.threads, "threshold": arguments.threshold}
    path = find_model(arguments.model, results=arguments.results)
    if path.suffix == ".onnx":
        classifier = Classifier.load(path, **options)
        if arguments.model == SHIPPED:  # users know it by this name, not by that of its training
            classifier.about |= {"telescope": SHIPPED, "experiment": None, "seed": None}
        return classifier
    from otrain_core.networks.export_onnx import export_file

    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder, "model.onnx")
        export_file(path, onnx)
        return Classifier.load(onnx, **options)


class Skipped:
    """Inputs that could not be scored.

    Attributes
    ----------
    left_out : list of str
        Errors of images that a run left out.
    refused : list of str
        Errors of all other inputs.
    """

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self.refused: list[str] = []

    @contextmanager
    def around(self, alone: bool) -> Iterator[None]:
        """Report an input that cannot be scored and continue; the error of a single input (`alone`) is raised."""
        try:
            yield
        except OtrainError as error:
            if alone:
                raise
            left_out = isinstance(error, UpstreamFailed)
            (self.left_out if left_out else self.refused).append(str(error))
            print(f"{error} ({'left out by the run' if left_out else 'refused'})", file=sys.stderr)


def candidates(arguments: Namespace, size: int, skipped: Skipped) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield blocks of candidates.

    Parameters
    ----------
    arguments : argparse.Namespace
        Arguments of classify or monitor.
    size : int
        Side length of the cutouts [px].
    skipped : Skipped
        Collects the inputs that cannot be read.

    Yields
    ------
    columns : dict of str to sequence
        Columns that identify the candidates: file, image, candid, x, y, ra, dec, as far as they are known.
    cutouts : dict of str to array
        Cutouts as `otrain_core.classify.classifier.Classifier.classify` takes them.
    """
    alone = len(arguments.inputs) == 1
    if arguments.candidates or arguments.detect:
        names = [Path(path).name for path in arguments.inputs]
        for path, name in zip(arguments.inputs, names, strict=True):
            with skipped.around(alone):  # images of the same name in several folders are identified by their paths
                yield from _of_image(path, arguments, size, name if names.count(name) == 1 else path)
        return
    files: list[Path] = []
    for path in map(Path, arguments.inputs):
        if path.suffix == ".npz":
            with skipped.around(alone):
                yield from _of_cube(path)
        elif path.is_dir():
            from otrain_core.cubes.cutout_files import find_cutouts

            files += find_cutouts(path)
        else:
            files.append(path)
    if files:
        from otrain_core.cubes.cutout_files import read_blocks, read_cutout

        if len(files) == 1 and max(read_cutout(files[0], strict=False)[0]["difference"].shape) > LARGEST_CUTOUT:
            raise CubeError(
                f"{files[0]}: too large for a cutout; if it is a difference image, give --candidates TABLE or --detect"
            )
        columns, n = ("file", "candid", "image", "ra", "dec", "edge"), 0
        for cutouts, rows in read_blocks(files, size=size):
            n += len(rows)
            yield {key: [row[key] for row in rows] for key in columns}, cutouts
        if n < len(files) and not arguments.quiet:
            print(
                f"{len(files) - n} cutouts are left out, as they are cut off by the edge of their image",
                file=sys.stderr,
            )


def _of_image(path: str, arguments: Namespace, size: int, name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    from otrain_core.classify.new_candidates import cut_blocks

    for cutouts, table in cut_blocks(
        path,
        arguments.candidates,
        size=size,
        science=arguments.science,
        reference=arguments.reference,
        mask=arguments.mask,
        psf=arguments.psf,
        threshold=arguments.sigma,
        bin=arguments.bin,
    ):
        yield {"image": [name] * len(table["x"]), **table}, cutouts


def _of_cube(path: Path, block: int = 4096) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    from otrain_core.arrays import read_stack
    from otrain_core.cubes.cube_format import read_cube

    cube = read_stack(path, mmap=("cube", "stack"))
    names = {"candid": "candids", "image": "images", "ra": "ra", "dec": "dec", "label": "labels"}
    if "stack" in cube:  # cutouts.npz of one image of the workflow; cubes do not have its candidates with label -1
        cube["cube"] = cube.pop("stack")
        names = {key: key for key in ("candid", "image", "x", "y", "ra", "dec", "edge", "label")}
        n = len(cube["cube"])
    else:
        cube = read_cube(path, mmap=True, both_classes=False)
        n = len(cube["labels"])
    for start in range(0, n, block):
        rows = slice(start, start + block)
        part = {
            key: value[rows] if np.shape(value)[:1] == (n,) and key != "channels" else value
            for key, value in cube.items()
        }
        yield {name: part[key] for name, key in names.items() if key in part}, part


def _csv(rows: list[dict[str, Any]], columns: list[str]) -> str:
    file = text_io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([_cell(row.get(key, "")) for key in columns] for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool | np.bool_ | int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.9g}"
    return guarded(plain(value))
