"""What the verbs of the command ``otrain`` do: each returns its exit status, a record and a text."""

from __future__ import annotations

import csv
import io as text_io
import runpy
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.errors import CubeError, OtrainError

Outcome = tuple[int, Any, str]
LARGEST_CUTOUT = 256  # [px]; a single FITS file that is larger is meant as an image


def convert(arguments: Namespace) -> Outcome:
    from otrain_core.cube import no_rows
    from otrain_core.cube_folders import class_folders, cube_from_folders
    from otrain_core.io import write_arrays, write_json

    channels = None if arguments.channels == "all" else arguments.channels.split(",")
    arrays, record = cube_from_folders(
        *class_folders(arguments.folder),
        size=arguments.size,
        channels=channels,
        seed=arguments.seed,
        true_fraction=arguments.true_fraction,
        telescope=arguments.telescope,
    )
    output = Path(arguments.output)
    write_arrays(output, arrays)
    write_arrays(output.with_name("real_stars.npz"), no_rows(arrays))
    write_json(output.with_suffix(".json"), record)
    text = f"{output}: {record['n_true']} True, {record['n_false']} False, {record['size']} px, {', '.join(record['channels'])}"
    return 0, {"cube": str(output), **record}, text


def export(arguments: Namespace) -> Outcome:
    from otrain_core.cube import read_cube
    from otrain_core.cutout_files import write_cutouts

    counts = write_cutouts(read_cube(arguments.cube, mmap=True, both_classes=False), arguments.output)
    text = f"{arguments.output}: {counts['True']} files in True/, {counts['False']} in False/"
    return 0, {"folder": arguments.output, **counts}, text


def train(arguments: Namespace) -> Outcome:
    from otrain_core.config import Config
    from otrain_core.cube import no_rows, read_cube
    from otrain_core.io import read_json, write_arrays, write_json

    config = Config()
    if arguments.experiment not in config.experiments:
        raise OtrainError(f"--experiment: {arguments.experiment!r} is not one of {', '.join(config.experiments)}")
    changed = {"epochs": arguments.epochs, "inputs": arguments.inputs.split(",") if arguments.inputs else None}
    experiment = config.experiments[arguments.experiment].model_dump()
    experiment |= {key: value for key, value in changed.items() if value is not None}
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    cube = read_cube(arguments.cube)
    # The rules read what read_cube makes of it: cubes of the original O'TRAIN lack what the scripts expect.
    paths = {"cube": folder / "cube.npz", "cube_record": folder / "cube.json", "real_stars": folder / "real_stars.npz"}
    write_arrays(paths["cube"], cube)
    beside = Path(arguments.cube).with_suffix(".json")
    write_json(paths["cube_record"], read_json(beside) if beside.is_file() else {})
    write_arrays(paths["real_stars"], no_rows(cube))
    of = {name: str(folder / name) for name in ("split.csv", "model.keras", "train.json", "scores.csv", "metrics.json")}
    _script("split")(
        cube=str(paths["cube"]),
        split=of["split.csv"],
        split_paper=str(folder / "split_paper.csv"),
        record=str(folder / "split.json"),
        seed=arguments.seed,
        options=config.split.model_dump(),
    )
    _script("train")(
        cube=str(paths["cube"]),
        split=of["split.csv"],
        model=of["model.keras"],
        history=str(folder / "history.csv"),
        record=of["train.json"],
        experiment=experiment,
        seed=arguments.seed,
        protocol="grouped",
        threads=arguments.threads,
    )
    _script("evaluate")(
        **{key: str(path) for key, path in paths.items()},
        split=of["split.csv"],
        model=of["model.keras"],
        train_record=of["train.json"],
        scores=of["scores.csv"],
        metrics=of["metrics.json"],
        curves=str(folder / "curves.csv"),
        options=config.evaluate.model_dump(),
        threshold_rule=experiment["threshold"],
        seed=arguments.seed,
        protocol="grouped",
        experiment_name=arguments.experiment,
    )
    _export_onnx(folder, paths["cube"], folder / "model.onnx", seed=arguments.seed)
    return 0, *_headline(folder)


def diagnose(arguments: Namespace) -> Outcome:
    record, text = _headline(Path(arguments.folder))
    if arguments.output:
        from otrain_core.displays import save_figure
        from otrain_core.report_figures import draw_training

        drawn = draw_training(arguments.folder)
        for name, figure in drawn.items():
            save_figure(Path(arguments.output, f"{name}.png"), figure)
        record["figures"] = [str(Path(arguments.output, f"{name}.png")) for name in drawn]
        text = "\n".join([text, *record["figures"]])
    return 0, record, text


def explain(arguments: Namespace) -> Outcome:
    from otrain_core.config import Config

    folder, output = Path(arguments.folder), Path(arguments.output or arguments.folder)
    _script("explain")(
        model=str(_needed(folder, "model.keras")),
        cube=arguments.cube,
        scores=str(_needed(folder, "scores.csv")),
        metrics=str(_needed(folder, "metrics.json")),
        gradcam=str(output / "gradcam.npz"),
        figure=str(output / "gradcam.png"),
        options=Config().explain.model_dump(),
        seed=arguments.seed,
    )
    return 0, {"figure": str(output / "gradcam.png"), "maps": str(output / "gradcam.npz")}, str(output / "gradcam.png")


def check(arguments: Namespace) -> Outcome:
    from otrain_core.fitness import check_paths

    row = {"gain": arguments.gain, "pixel_scale": arguments.pixel_scale, "saturation": arguments.saturation}
    found = check_paths(arguments.paths, telescope={key: value for key, value in row.items() if value is not None})
    lines = []
    for item in found:
        lines.append(f"{item['path']}: {item['kind']}, {'fit for use' if item['fit'] else 'NOT fit for use'}")
        lines += [f"  problem: {problem}" for problem in item["problems"]]
        lines += [f"  note: {note}" for note in item["notes"]]
        hidden = ("path", "kind", "fit", "problems", "notes")
        lines += [f"  {key}: {_short(value)}" for key, value in item.items() if key not in hidden]
    return int(not all(item["fit"] for item in found)), found, "\n".join(lines)


def classify(arguments: Namespace) -> Outcome:
    classifier = _classifier(arguments)
    counts = dict.fromkeys(("n", "real", "undecided", "unlike_training"), 0)
    rows: list[dict[str, Any]] | None = [] if arguments.json and not arguments.output else None
    with _table(arguments) as write:
        for columns, cutouts in _candidates(arguments, classifier.size):
            found = classifier.classify(cutouts)
            counts["n"] += len(found["score"])
            counts["real"] += int(np.sum(found["real"] & ~found["undecided"]))
            counts["undecided"] += int(np.sum(found["undecided"]))
            counts["unlike_training"] += int(np.sum(found["reason"] != ""))
            block = columns | found
            table = [{key: values[k] for key, values in block.items()} for k in range(len(found["score"]))]
            if rows is None:
                write(table)
            else:
                rows += table
            _progress(arguments, counts["n"])
    about = {key: classifier.about.get(key) for key in ("telescope", "pipeline", "experiment", "seed", "commit")}
    record = {"model": about | {"threshold": classifier.threshold}, **counts}
    text = f"{arguments.output}: {_words(counts)}" if arguments.output else ""
    if not arguments.output and not arguments.json and not arguments.quiet:
        print(_words(counts), file=sys.stderr)
    return 0, record | ({} if rows is None else {"candidates": rows}), text


@contextmanager
def _table(arguments: Namespace) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """What writes rows as CSV, to the file or to standard output; the file appears when it is whole."""
    from otrain_core.io import atomic

    started: list[list[str]] = []
    with ExitStack() as stack:
        file = sys.stdout
        if arguments.output:
            file = stack.enter_context(open(stack.enter_context(atomic(arguments.output)), "w", newline=""))

        def write(rows: list[dict[str, Any]]) -> None:
            if rows and not started:
                started.append(list(rows[0]))
                file.write(_csv([dict(zip(started[0], started[0], strict=True))], started[0]))
            if rows:
                file.write(_csv(rows, started[0]))

        yield write


def _progress(arguments: Namespace, number: int) -> None:
    if not arguments.quiet and sys.stderr.isatty() and (arguments.output or arguments.json):
        print(f"\r{number} candidates ", end="", file=sys.stderr, flush=True)


def _words(counts: dict[str, int]) -> str:
    return (
        f"{counts['n']} candidates: {counts['real']} real, {counts['undecided']} undecided, "
        f"{counts['n'] - counts['real'] - counts['undecided']} bogus; {counts['unlike_training']} unlike the training set"
    )


def _classifier(arguments: Namespace):
    from otrain_core.classify import Classifier
    from otrain_core.registry import find_model

    options = {"threads": arguments.threads, "threshold": arguments.threshold}
    path = find_model(arguments.model, results=arguments.results)
    if path.suffix == ".onnx":
        return Classifier.load(path, **options)
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder, "model.onnx")
        _export_file(path, onnx)
        return Classifier.load(onnx, **options)


def _candidates(arguments: Namespace, size: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Blocks of candidates: the columns that name them, and their cutouts."""
    if arguments.candidates or arguments.detect:
        from otrain_core.new_candidates import cut_candidates

        for path in arguments.inputs:
            cutouts, table = cut_candidates(
                path,
                arguments.candidates,
                size=size,
                science=arguments.science,
                reference=arguments.reference,
                mask=arguments.mask,
                psf=arguments.psf,
                threshold=arguments.sigma,
            )
            yield {"image": [Path(path).name] * len(table["x"]), **table}, cutouts
        return
    files: list[Path] = []
    for path in map(Path, arguments.inputs):
        if path.suffix == ".npz":
            yield from _of_cube(path)
        elif path.is_dir():
            from otrain_core.cutout_files import find_cutouts

            files += find_cutouts(path)
        else:
            files.append(path)
    if files:
        from otrain_core.cutout_files import read_blocks, read_cutout

        if len(files) == 1 and max(read_cutout(files[0], strict=False)[0]["difference"].shape) > LARGEST_CUTOUT:
            raise CubeError(f"{files[0]}: is this a difference image? Give its --candidates, or --detect them")
        columns = ("candid", "image", "ra", "dec", "edge")
        for start in range(0, len(files), 256):
            for cutouts, rows in read_blocks(files[start : start + 256], size=size):
                names = [str(path) for path in files[start : start + len(rows)]]
                yield {"file": names, **{key: [row[key] for row in rows] for key in columns}}, cutouts


def _of_cube(path: Path, block: int = 4096) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    from otrain_core.cube import read_cube

    cube = read_cube(path, mmap=True, both_classes=False)
    n = len(cube["labels"])
    names = {"candid": "candids", "image": "images", "ra": "ra", "dec": "dec", "label": "labels"}
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
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.9g}"
    text = str(value)
    # A spreadsheet would take these for formulas; a name from a header must not become one.
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def models_list(arguments: Namespace) -> Outcome:
    from otrain_core.registry import list_models

    rows = list_models(results=arguments.results)
    lines = [
        f"{row['model']} version {row['version']}: {row['pipeline']}/{row['experiment']}/seed{row['seed']}, MCC {row['mcc']}"
        + (f" [{row['alias']}]" if row["alias"] else "")
        + (" (superseded)" if row["superseded"] else "")
        for row in rows
    ]
    return 0, rows, "\n".join(lines) or "no registered models"


def models_promote(arguments: Namespace) -> Outcome:
    from otrain_core.registry import promote

    return _chosen(promote(arguments.model, arguments.version, results=arguments.results))


def models_roll_back(arguments: Namespace) -> Outcome:
    from otrain_core.registry import roll_back

    return _chosen(roll_back(arguments.model, results=arguments.results))


def models_automatic(arguments: Namespace) -> Outcome:
    from otrain_core.registry import automatic

    record = automatic(arguments.model, results=arguments.results)
    return 0, record, f"{record['model']}: the next import chooses the champion"


def _chosen(record: dict[str, Any]) -> Outcome:
    before = f" (before: version {record['previous']})" if record["previous"] else ""
    return 0, record, f"{record['model']}: version {record['version']} is the champion{before}"


def models_export(arguments: Namespace) -> Outcome:
    model = Path(arguments.model)
    output = Path(arguments.output) if arguments.output else (model if model.is_dir() else model.parent) / "model.onnx"
    if model.is_dir() and arguments.cube:
        _export_onnx(model, Path(arguments.cube), output, seed=1)
    else:
        _export_file(model / "model.keras" if model.is_dir() else model, output, threshold=arguments.threshold)
    return 0, {"model": str(output)}, str(output)


def _export_onnx(folder: Path, cube: Path, output: Path, *, seed: int) -> None:
    names = {"model": "model.keras", "train_record": "train.json", "scores": "scores.csv", "metrics": "metrics.json"}
    paths = {key: str(_needed(folder, name)) for key, name in names.items()}
    _script("export_onnx")(cube=str(cube), onnx=str(output), seed=seed, **paths)


def _export_file(model: Path, output: Path, *, threshold: float | None = None) -> None:
    """A Keras model as ONNX, with the records that stand beside it."""
    from otrain_core.export_onnx import export_model, model_record
    from otrain_core.foreign_model import load_any_model
    from otrain_core.summary import read_record

    about = model_record(read_record(model.parent / "metrics.json"), read_record(model.parent / "train.json"))
    export_model(load_any_model(model), output, about=about | ({} if threshold is None else {"threshold": threshold}))


def _headline(folder: Path) -> tuple[dict[str, Any], str]:
    from otrain_core.io import read_json

    record = read_json(_needed(folder, "metrics.json"))
    headline = record["headline"]
    names = ("threshold", "mcc", "accuracy", "precision", "recall", "fpr", "auc", "ece")
    lines = [f"{folder}: {record['scored_set']}, {headline['n_true']} True, {headline['n_false']} False"]
    for name in names:
        value, low, high = (headline.get(f"{name}{end}") for end in ("", "_low", "_high"))
        interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
        lines.append(f"  {name:10s} {value:.3f}{interval}" if value is not None else f"  {name:10s} unknown")
    kept = ("telescope", "pipeline", "experiment", "seed", "protocol", "headline", "calibration", "abstention")
    return {key: record.get(key) for key in kept}, "\n".join(lines)


def _needed(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise OtrainError(f"{folder / name}: no such file; is this the folder of a training?")
    return folder / name


def _script(name: str) -> Callable[..., None]:
    """``main`` of a step of the workflow."""
    path = Path(__file__).resolve().parent.parent / "scripts" / f"{name}.py"
    if not path.is_file():
        raise OtrainError(f"{path}: no such file; this verb needs a clone of the repository, installed with pip -e")
    return runpy.run_path(str(path))["main"]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return str(value)
