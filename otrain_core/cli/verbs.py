"""The verbs of the command ``otrain`` that have no module of their own.

Each function returns the exit status, a record for ``--json``, and a text.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from otrain_core.errors import CubeError, OtrainError

if TYPE_CHECKING:
    from otrain_core.plan.config import Experiment, FinetuneOptions

Outcome = tuple[int, Any, str]


def convert(arguments: Namespace) -> Outcome:
    """Make a cube from folders True/ and False/."""
    from otrain_core.arrays import write_arrays
    from otrain_core.cubes.cube import cube_from_folders
    from otrain_core.cubes.cube_folders import class_folders
    from otrain_core.cubes.cube_format import no_rows
    from otrain_core.io import write_json
    from otrain_core.plan.config import CubeOptions

    channels = None if arguments.channels == "all" else arguments.channels.split(",")
    arrays, record = cube_from_folders(
        *class_folders(arguments.folder),
        size=arguments.size,
        channels=channels,
        seed=arguments.seed,
        options=CubeOptions(true_fraction=arguments.true_fraction, min_per_class=1),
        telescope=arguments.telescope,
    )
    output = Path(arguments.output)
    write_arrays(output, arrays)
    write_arrays(output.with_name("real_stars.npz"), no_rows(arrays))
    write_json(output.with_suffix(".json"), record)
    text = f"{output}: {record['n_true']} True, {record['n_false']} False, {record['size']} px, {', '.join(record['channels'])}"
    return 0, {"cube": str(output), **record}, text


def export(arguments: Namespace) -> Outcome:
    """Write a cube as folders True/ and False/."""
    from otrain_core.cubes.cube_format import read_cube
    from otrain_core.cubes.cutout_files import write_cutouts

    counts = write_cutouts(read_cube(arguments.cube, mmap=True, both_classes=False), arguments.output)
    text = f"{arguments.output}: {counts['True']} files in True/, {counts['False']} in False/"
    return 0, {"folder": arguments.output, **counts}, text


def train(arguments: Namespace) -> Outcome:
    """Split a cube, train, evaluate and export, with the steps of the workflow."""
    from otrain_core.classify.shipped_scores import shipped_files
    from otrain_core.cubes.split import split_files
    from otrain_core.evaluation.evaluate import evaluate_files
    from otrain_core.networks.architecture import load_model
    from otrain_core.networks.predict import score_cube, score_real_stars
    from otrain_core.networks.train import train_files
    from otrain_core.plan.config import Config
    from otrain_core.registry.live import live_run

    config, experiment = Config(), _experiment(arguments)
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    paths = _lay_out(Path(arguments.cube), folder, labels=arguments.labels, tuned=experiment.start is not None)
    of = {name: str(folder / name) for name in ("split.csv", "model.keras", "train.json", "scores.csv", "metrics.json")}
    finetune = config.finetune.model_copy(update={"epochs": arguments.epochs} if arguments.epochs else {})
    try:
        split_files(
            cube=paths["cube"],
            split=of["split.csv"],
            random_split=folder / "split_random.csv",
            record=folder / "split.json",
            seed=arguments.seed,
            options=config.split,
        )
    except CubeError as error:
        return _without_test(arguments, experiment, finetune, error)
    train_files(
        cube=paths["cube"],
        split=of["split.csv"],
        model=of["model.keras"],
        history=folder / "history.csv",
        record=of["train.json"],
        experiment=experiment,
        seed=arguments.seed,
        threads=arguments.threads,
        live_run=live_run,
        finetune=finetune,
    )
    shipped_files(cube=paths["cube"], scores=folder / "universal.csv", threads=arguments.threads or 1)
    evaluate_files(
        cube=paths["cube"],
        cube_record=paths["cube_record"],
        real_stars=paths["real_stars"],
        split=of["split.csv"],
        split_record=folder / "split.json",
        model=of["model.keras"],
        train_record=of["train.json"],
        scores=of["scores.csv"],
        metrics=of["metrics.json"],
        curves=str(folder / "curves.csv"),
        load_model=load_model,
        score_cube=score_cube,
        score_real_stars=score_real_stars,
        options=config.evaluate,
        threshold_rule=experiment.threshold,
        seed=arguments.seed,
        protocol="by-image",
        experiment_name=arguments.experiment or ("fine-tuned" if experiment.start else "otrain2"),
        shipped=folder / "universal.csv",
    )
    _export_onnx(folder, paths["cube"], folder / "model.onnx", seed=arguments.seed)
    return 0, *_headline(folder)


def _without_test(arguments: Namespace, experiment: Experiment, finetune: FinetuneOptions, error: CubeError) -> Outcome:
    """Fine-tune the shipped model on all cutouts, as they cannot be split; refuse to do so for another experiment."""
    from otrain_core.arrays import write_arrays
    from otrain_core.classify.shipped import NAME
    from otrain_core.cli.tuning import in_words
    from otrain_core.cubes.cube_format import read_cube
    from otrain_core.networks.adapt import completed
    from otrain_core.networks.finetune import finetune_files

    folder = Path(arguments.output)
    if experiment.start is None:
        if arguments.experiment or not arguments.labels:
            raise CubeError(f"{error}; give --from {NAME} to fine-tune on all labels, without a test set") from None
        arguments.start = NAME
        experiment = _experiment(arguments)
        write_arrays(folder / "cube.npz", completed(read_cube(folder / "cube.npz")))
    for name in ("metrics.json", "scores.csv", "split_random.csv", "split.json"):  # of an earlier training
        (folder / name).unlink(missing_ok=True)
    record = finetune_files(
        cube=folder / "cube.npz",
        split=folder / "split.csv",
        model=folder / "model.keras",
        history=folder / "history.csv",
        record=folder / "train.json",
        onnx=folder / "model.onnx",
        experiment=experiment,
        seed=arguments.seed,
        finetune=finetune,
        threads=arguments.threads,
    )
    kept = {"model": str(folder / "model.onnx"), "test_set": None, "adapted": record["adapted"]}
    return 0, kept, f"{folder / 'model.onnx'}: {in_words(record, str(error))}"


def _experiment(arguments: Namespace) -> Experiment:
    """The experiment that --experiment names, changed by the other options."""
    from otrain_core.plan.config import Config, Experiment
    from otrain_core.plan.sections import explain_first

    experiments = Config().experiments
    name = arguments.experiment or ("fine-tuned" if arguments.start else "otrain2")
    if name not in experiments:
        raise OtrainError(f"--experiment: {name!r} is not one of {', '.join(experiments)}")
    changed = {"epochs": arguments.epochs, "inputs": arguments.inputs.split(",") if arguments.inputs else None}
    values = experiments[name].model_dump()
    if arguments.start and values["start"] is None:
        values |= {"start": arguments.start, "threshold": "even"}
    if values["start"] and arguments.inputs:
        raise OtrainError("--inputs: not possible for a fine-tuned network, which has the inputs of the shipped model")
    values |= {key: value for key, value in changed.items() if value is not None}
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise OtrainError(explain_first(error, f"--experiment {name}")) from None


def _lay_out(cube: Path, folder: Path, *, labels: str | None = None, tuned: bool = False) -> dict[str, Path]:
    """Write a cube, its record and an empty table of real stars to the paths that the steps of the workflow expect.

    Parameters
    ----------
    cube, folder : pathlib.Path
        Source and target.
    labels : str, optional
        Label sheet: keep only the cutouts with a label in it.
    tuned : bool
        Add the channels that the shipped model reads.
    """
    from otrain_core.arrays import write_arrays
    from otrain_core.cli.tuning import labelled
    from otrain_core.cubes.copies import drop_copies, tell_copies
    from otrain_core.cubes.cube_format import no_rows, read_cube
    from otrain_core.io import read_json, write_json

    arrays, copies = drop_copies(labelled(cube, labels) if labels else read_cube(cube, mmap=True))
    if n := copies["n_left_out"]:
        sentence = tell_copies(copies, n + len(arrays["labels"]))
        logging.getLogger("otrain").warning("%s: %s; %d cutouts are left out", cube, sentence, n)
    if tuned:
        from otrain_core.networks.adapt import completed

        arrays = completed(arrays)
    # Written as read_cube returns them, as cubes of the original O'TRAIN lack some arrays that the steps need.
    paths = {"cube": folder / "cube.npz", "cube_record": folder / "cube.json", "real_stars": folder / "real_stars.npz"}
    write_arrays(paths["cube"], arrays)
    beside = cube.with_suffix(".json")
    write_json(paths["cube_record"], read_json(beside) if beside.is_file() else {})
    write_arrays(paths["real_stars"], no_rows(arrays))
    return paths


def diagnose(arguments: Namespace) -> Outcome:
    """Print the headline scores of a training, and draw its figures if asked."""
    record, text = _headline(Path(arguments.folder))
    if arguments.output:
        from otrain_core.figures.canvas import save_figure
        from otrain_core.figures.training import draw_training

        drawn = draw_training(arguments.folder)
        for name, figure in drawn.items():
            save_figure(Path(arguments.output, f"{name}.png"), figure)
        record["figures"] = [str(Path(arguments.output, f"{name}.png")) for name in drawn]
        text = "\n".join([text, *record["figures"]])
    return 0, record, text


def explain(arguments: Namespace) -> Outcome:
    """Draw the Grad-CAM maps of a training."""
    from otrain_core.figures.galleries import draw_grad_cam
    from otrain_core.networks.explain import explain_files
    from otrain_core.plan.config import ExplainOptions

    folder, output = Path(arguments.folder), Path(arguments.output or arguments.folder)
    explain_files(
        model=_needed(folder, "model.keras"),
        cube=arguments.cube,
        scores=_needed(folder, "scores.csv"),
        metrics=_needed(folder, "metrics.json"),
        gradcam=output / "gradcam.npz",
        figure=output / "gradcam.png",
        draw=draw_grad_cam,
        options=ExplainOptions(),
        seed=arguments.seed,
    )
    return 0, {"figure": str(output / "gradcam.png"), "maps": str(output / "gradcam.npz")}, str(output / "gradcam.png")


def check(arguments: Namespace) -> Outcome:
    """Check whether paths are fit for use; status 1 if one is not."""
    from otrain_core.cli.check import check_paths

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


def models_list(arguments: Namespace) -> Outcome:
    """List the shipped model with its model card, and all registered versions."""
    from otrain_core.classify.card import card_lines
    from otrain_core.classify.shipped import NAME, shipped_card
    from otrain_core.registry.models import list_models
    from otrain_core.registry.store import server_address
    from otrain_core.results import store_path

    card = shipped_card()
    shipped = [] if card is None else [{"model": NAME, "version": "shipped", "card": card}]
    lines = (
        [f"{NAME} (shipped; the default of -m)", *(f"  {line}" for line in card_lines(card or {}))] if shipped else []
    )
    if shipped and not server_address() and not store_path(arguments.results).is_file():
        return 0, shipped, "\n".join([*lines, f"no registered models in {arguments.results}"])
    rows = list_models(results=arguments.results)
    lines += [
        f"{row['model']} version {row['version']}: {row['pipeline']}/{row['experiment']}/seed{row['seed']}, MCC {row['mcc']}"
        + (f" [{row['alias']}]" if row["alias"] else "")
        + (" (superseded)" if row["superseded"] else "")
        for row in rows
    ]
    return 0, shipped + rows, "\n".join(lines if rows else [*lines, "no registered models"])


def models_import(arguments: Namespace) -> Outcome:
    """Import all trainings of a results folder into the MLflow server or, without one, into the store of the folder."""
    from otrain_core.plan.config import GateOptions
    from otrain_core.plan.sections import explain_first
    from otrain_core.registry.records import find_trainings
    from otrain_core.registry.store import server_address, shown
    from otrain_core.registry.track import import_runs
    from otrain_core.results import store_path

    if not arguments.quiet:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("otrain").setLevel(logging.INFO)
    wanted = {"min_mcc": arguments.min_mcc, "max_fp": arguments.max_fp}
    try:
        gate = GateOptions.model_validate({key: value for key, value in wanted.items() if value is not None})
    except ValidationError as error:
        raise OtrainError(explain_first(error, "gate")) from None
    store = server_address() or store_path(arguments.results)
    folders, studies = find_trainings(arguments.results)
    record = {"store": shown(store), **import_runs(folders, store=store, studies=studies, gate=gate)}
    lines = [f"{record['store']}: {len(record['runs'])} runs, {len(record['studies'])} studies"]
    for telescope, champion in record["champions"].items():
        named = f"version {champion['version']}, MCC {champion.get('mcc', float('nan')):.3f}" if champion else "none"
        lines.append(f"champion of {telescope}: {named}")
    lines += [f"left out: {entry['folder']}: {entry['reason']}" for entry in record["skipped"]]
    lines += [f"broken: {entry['reason']}" for entry in record["broken"]]
    return int(bool(record["broken"])), record, "\n".join(lines)


def models_promote(arguments: Namespace) -> Outcome:
    """Make a version the champion."""
    from otrain_core.registry.models import promote

    return _chosen(promote(arguments.model, arguments.version, results=arguments.results))


def models_roll_back(arguments: Namespace) -> Outcome:
    """Make the champion before this one the champion again."""
    from otrain_core.registry.models import roll_back

    return _chosen(roll_back(arguments.model, results=arguments.results))


def models_automatic(arguments: Namespace) -> Outcome:
    """Let imports choose the champion again."""
    from otrain_core.registry.models import automatic

    record = automatic(arguments.model, results=arguments.results)
    return 0, record, f"{record['model']}: the next import will choose the champion"


def _chosen(record: dict[str, Any]) -> Outcome:
    before = f" (previously: version {record['previous']})" if record["previous"] else ""
    text = f"{record['model']}: version {record['version']} is the champion{before}"
    return 0, record, text + (f"; gate {record['gate']}" if record["gate"].startswith("failed") else "")


def models_export(arguments: Namespace) -> Outcome:
    """Write a trained network as ONNX."""
    model = Path(arguments.model)
    output = Path(arguments.output) if arguments.output else (model if model.is_dir() else model.parent) / "model.onnx"
    if model.is_dir() and arguments.cube:
        _export_onnx(model, Path(arguments.cube), output, seed=1)
    else:
        from otrain_core.networks.export_onnx import export_file

        export_file(model / "model.keras" if model.is_dir() else model, output, threshold=arguments.threshold)
    return 0, {"model": str(output)}, str(output)


def _export_onnx(folder: Path, cube: Path, output: Path, *, seed: int) -> None:
    from otrain_core.networks.export_onnx import export_onnx_files

    export_onnx_files(
        cube=cube,
        model=_needed(folder, "model.keras"),
        train_record=_needed(folder, "train.json"),
        scores=_needed(folder, "scores.csv"),
        metrics=_needed(folder, "metrics.json"),
        onnx=output,
        seed=seed,
    )


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
        raise OtrainError(f"{folder / name}: no such file; give the folder of a training")
    return folder / name


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    return str(value)
