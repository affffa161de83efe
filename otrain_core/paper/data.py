"""The small tables from which the figures of the paper are drawn, made from the results of a run.

The run may be unfinished. Cutouts and maps are stored in a table as text, row by row from the bottom (see `pixels`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.arrays import arrays_if_there
from otrain_core.io import write_json, write_table
from otrain_core.paper.captions import make_caption
from otrain_core.paper.claims import GAPS
from otrain_core.paper.plan import (
    GALLERIES,
    MAPS,
    PANELS,
    SWEEPS,
    cubes_of,
    shown_protocol,
    training_folder,
)
from otrain_core.results import image_folder, number, read_record, read_scores, table_if_there

N_CUTOUTS = 8  # of each class in a gallery
SWEEP_KEYS = ("telescope", "pipeline", "n_images", "experiment", "value", "seed", "n_train", "n_test")
SCORES = ("accuracy", "f1", "mcc")
MAP_KINDS = {"fig09": "right False", "fig13": "wrong True"}


def data_files(
    *, figure: str, plan: Mapping[str, Any], table: str | Path, caption: str | Path, root: str | Path = "results"
) -> None:
    """Write the small table behind one figure of the paper, and its caption.

    Parameters
    ----------
    figure : str
        fig01 to fig13, figA1 to figA4.
    plan : mapping
        As from `otrain_core.paper.plan.plan_paper`.
    table, caption : path-like
        CSV and JSON written.
    root : path-like
        Folder of the results.
    """
    data, facts = figure_data(figure, plan, root=root)
    write_table(table, data)
    write_json(caption, make_caption(figure, plan, facts, data))


def figure_data(figure: str, plan: Mapping[str, Any], *, root: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table of one figure and the facts that its caption quotes.

    Parameters
    ----------
    figure : str
        One of `otrain_core.paper.plan.FIGURES`.
    plan : mapping
        As from `otrain_core.paper.plan.plan_paper`.
    root : path-like
        Folder of the results.

    Returns
    -------
    table : pandas.DataFrame
        Empty if there are no data for the figure yet; ``facts['missing']`` then says what is missing.
    facts : dict
    """
    root, cubes = Path(root), cubes_of(plan, figure)
    if figure in ("fig01", "fig03"):
        return layers_of(dict(list(plan["experiments"].items())[: 1 if figure == "fig01" else None]))
    if figure in SWEEPS:
        return sweep_data(root, plan, SWEEPS[figure])
    if not cubes:
        return pd.DataFrame(), {"missing": "the run has none of its cubes"}
    if figure == "fig02":
        return training_loop(root, plan, cubes[0])
    if figure == "fig04":
        return injected_magnitudes(root, plan, cubes[0])
    if figure in GALLERIES:
        return gallery_data(root, cubes, seed=plan["seed"])
    if figure in MAPS:
        return map_data(root, plan, cubes[0], MAP_KINDS[figure])
    assert figure in PANELS, figure
    return panel_data(root, plan, cubes[0])


def layers_of(experiments: Mapping[str, Mapping[str, Any]]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Layers of the networks of some experiments, as listed by Keras.

    Returns
    -------
    table : pandas.DataFrame
        experiment, layer, type, height, width, channels (output; a vector has only channels), parameters, trainable.
    facts : dict
        Number of parameters by experiment.
    """
    import math

    from otrain_core.networks.architecture import build_network
    from otrain_core.plan.config import Experiment

    rows, totals = [], {}
    for name, options in experiments.items():
        experiment = Experiment.model_validate(options)
        model = build_network(experiment, size=experiment.size or 32)
        totals[name] = model.count_params()
        for layer in model.layers:
            shape = (None, None, *layer.output.shape[1:])[-3:]
            trainable = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
            row = {"experiment": name, "layer": layer.name, "type": type(layer).__name__}
            row |= dict(zip(("height", "width", "channels"), shape, strict=True))
            rows.append(row | {"parameters": layer.count_params(), "trainable": trainable})
    table = pd.DataFrame(rows)
    if table.empty:
        return table, {"missing": "the run has neither of the experiments paper and otrain2"}
    return table.astype(dict.fromkeys(("height", "width", "channels"), "Int64")), {"parameters": totals}


def training_loop(root: Path, plan: Mapping[str, Any], cube: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Settings and counts of the training of one cube, from its record: columns key and value."""
    name = next(iter(plan["experiments"]), None)
    folder = find_training(root, plan, cube, name, file="train.json") if name else None
    if folder is None:
        return pd.DataFrame(), {"missing": f"no training of {name or 'paper'} on {cube} yet"}
    record = read_record(folder / "train.json")
    options = record.get("options") or {}
    batch = options.get("batch_size", np.nan)
    values = {
        "experiment": name,
        "cube": cube,
        "protocol": record.get("protocol"),
        "n_train": record.get("n_train"),
        "n_watched": record.get("n_validation"),
        "batch_size": batch,
        "batches": -(-number(record, "n_train") // number(options, "batch_size")),
        "epochs": record.get("epochs"),
        "learning_rate": options.get("learning_rate"),
        "schedule": options.get("schedule"),
        "n_parameters": record.get("n_parameters"),
        "kept": options.get("keep"),
        "kept_epoch": record.get("kept_epoch"),
    }
    table = pd.DataFrame({"key": list(values), "value": [str(value) for value in values.values()]})
    return table, values


def injected_magnitudes(root: Path, plan: Mapping[str, Any], cube: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Injected and recovered sources in bins of magnitude: low, high [mag], injected, found."""
    from otrain_core.evaluation.completeness import completeness_table

    images = plan["images"][cube.split("/")[0]]
    table = completeness_table([image_folder(root / cube, image) for image in images])
    if table.empty:
        return table, {"missing": f"no image of {cube} has been searched yet"}
    totals = {name: int(table[name].sum()) for name in ("injected", "found")}
    return table, {"cube": cube, **totals, **images_behind(root, plan, cube)}


def gallery_data(root: Path, cubes: Sequence[str], *, seed: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Random cutouts of the difference of each class: cube, label, candid, mag, kind (of a False), side, pixels."""
    from otrain_core.figures.galleries import CutoutGallery

    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {"counts": {}}
    for name in cubes:
        cube = arrays_if_there(root / name / "cube.npz")
        if cube is None:
            continue
        shown = CutoutGallery.from_cube(cube, rng=np.random.default_rng(seed), n=N_CUTOUTS)
        for label, (group, panel) in enumerate(shown.panels.items()):
            for index, cutout in zip(shown.rows[group], panel, strict=True):
                kind = str(cube["artefacts"][index]) if label == 0 and "artefacts" in cube else ""
                row = {"cube": name, "label": label, "candid": str(cube["candids"][index])}
                row |= {"mag": float(cube["mags"][index]), "kind": kind, "side": cutout.shape[0]}
                rows.append(row | {"pixels": pixels(cutout)})
        labels = np.asarray(cube["labels"])
        facts["counts"][name] = {"n_true": int((labels == 1).sum()), "n_false": int((labels == 0).sum())}
        facts["counts"][name]["side"] = int(cube["cube"].shape[1])
    if not rows:
        return pd.DataFrame(), {"missing": f"no cube yet ({', '.join(cubes)})"}
    return pd.DataFrame(rows), facts


def map_data(root: Path, plan: Mapping[str, Any], cube: str, kind: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One decision of each experiment with its Grad-CAM map.

    For correct decisions, this is the first of the randomly drawn ones whose map is not a fallback. For a missed True, it
    is the one whose score rises most when its neighbour is removed or, if none has a neighbour, the worst one.

    Returns
    -------
    table : pandas.DataFrame
        experiment, candid, label, score, score_without (score without the neighbour), distance (of the neighbour [px]),
        energy (fraction of the map within one FWHM), layer, panel (cutout, map, resized), side, pixels.
    facts : dict
    """
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {"cube": cube, "kind": kind, "shown": {}}
    for experiment in plan["experiments"]:
        folder = find_training(root, plan, cube, experiment, file="gradcam.npz", protocols=("by-image",))
        arrays = arrays_if_there(folder / "gradcam.npz") if folder else None
        if folder is None or arrays is None:
            continue
        neighbours = table_if_there(folder / "neighbours.csv")
        chosen = _choose_map(arrays, neighbours, kind)
        if chosen is None:
            continue
        found = pd.DataFrame() if neighbours is None else neighbours[neighbours["index"] == arrays["index"][chosen]]
        beside = found.iloc[0] if len(found) else {}
        about = {
            "experiment": experiment,
            "candid": str(arrays["candid"][chosen]),
            "label": int(arrays["label"][chosen]),
            "score": float(arrays["score"][chosen]),
            "score_without": float(beside.get("score_after", np.nan)),
            "distance": float(beside.get("distance", np.nan)),
            "energy": float(arrays["energy"][chosen]),
            "layer": str(arrays["layer"]),
        }
        image = list(arrays["channels"]).index("difference") if "difference" in arrays["channels"] else 0
        panels = {"cutout": arrays["cutouts"][chosen, :, :, image]}
        panels |= {name: arrays[key][chosen] for name, key in (("map", "maps"), ("resized", "resized"))}
        rows += [
            about | {"panel": name, "side": len(values), "pixels": pixels(values)} for name, values in panels.items()
        ]
        record = read_record(folder / "explain.json")
        facts["shown"][experiment] = about | {"threshold": number(record, "threshold"), "record": record.get(kind, {})}
        facts["shown"][experiment] |= {"output": record.get("output"), "neighbours": record.get("neighbours", {})}
    if not rows:
        return pd.DataFrame(), {"missing": f"no Grad-CAM of a {kind} of {cube} yet"}
    return pd.DataFrame(rows), facts


def _choose_map(arrays: Mapping[str, np.ndarray], neighbours: pd.DataFrame | None, kind: str) -> int | None:
    rows = np.flatnonzero(np.asarray(arrays["kind"]).astype(str) == kind)
    if rows.size == 0:
        return None
    if kind.startswith("right"):
        plain = rows[~np.asarray(arrays["fallback"])[rows]]
        return int(plain[0] if plain.size else rows[0])
    if neighbours is not None:
        change = neighbours.set_index("index")["score_change"].reindex(np.asarray(arrays["index"])[rows])
        if change.notna().any():
            return int(rows[np.nanargmax(change.to_numpy(float))])
    return int(rows[0])


def panel_data(root: Path, plan: Mapping[str, Any], cube: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The curves of the four panels of the paper: columns panel, series, x, y.

    Panels: f1-mcc (x: threshold), scores (x: lower edge of a bin, y: fraction of all candidates), history (x:
    epoch), roc (series: bin of magnitude, x: false-positive rate, y: recall) and marks (x: threshold, kept epoch).
    """
    from otrain_core.figures.displays import ScoreHistogramDisplay

    name = next(iter(plan["experiments"]), None)
    folder = find_training(root, plan, cube, name, file="curves.csv") if name else None
    scores = read_scores(folder) if folder else None
    history, curves = (table_if_there(folder / f"{file}.csv") if folder else None for file in ("history", "curves"))
    if folder is None or scores is None or history is None or curves is None:
        return pd.DataFrame(), {"missing": f"no evaluated training of {name or 'paper'} on {cube} yet"}
    metrics, train = read_record(folder / "metrics.json"), read_record(folder / "train.json")
    scored, headline = scores[scores["set"] == metrics.get("scored_set", "test")], metrics["headline"]
    shown = ScoreHistogramDisplay.from_predictions(scored["label"].to_numpy(), scored["score"].to_numpy())
    parts = [
        pd.DataFrame({"panel": "scores", "series": series, "x": shown.edges[:-1], "y": values})
        for series, values in (("False", shown.false), ("True", shown.true))
    ]
    for series in ("accuracy", "validation_accuracy", "loss", "validation_loss"):
        parts.append(pd.DataFrame({"panel": "history", "series": series, "x": history["epoch"], "y": history[series]}))
    f1_mcc, roc = curves[curves["curve"].isin(["f1", "mcc"])], curves[curves["curve"] == "roc"]
    parts.append(f1_mcc[["x", "y"]].assign(panel="f1-mcc", series=f1_mcc["curve"]))
    parts.append(roc[["x", "y"]].assign(panel="roc", series=roc["bin"].fillna("").replace("", "all")))
    marks = {"threshold": number(headline, "threshold"), "kept_epoch": number(train, "kept_epoch")}
    parts.append(pd.DataFrame({"panel": "marks", "series": list(marks), "x": list(marks.values()), "y": np.nan}))
    table = pd.concat(parts, ignore_index=True)[["panel", "series", "x", "y"]]
    facts = {"cube": cube, "experiment": name, "seed": metrics.get("seed"), "protocol": metrics.get("protocol")}
    facts |= {"headline": headline, "last_epoch": history.iloc[-1].to_dict(), "n_train": train.get("n_train")}
    tenth = history[history["epoch"] == 10]
    return table, facts | {"tenth": tenth.iloc[0].to_dict() if len(tenth) else {}, **images_behind(root, plan, cube)}


def sweep_data(root: Path, plan: Mapping[str, Any], sweep: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Completed trainings of a sweep: `SWEEP_KEYS`, accuracy, f1, mcc, and `otrain_core.paper.claims.GAPS`.

    The values are read from the trainings themselves, so that an unfinished study can be drawn.
    """
    from otrain_core.studies.sweep import gather_sweep

    rows = plan["sweeps"].get(sweep, [])
    if not rows:
        return pd.DataFrame(), {"missing": f"the run has no study {sweep} (studies.sweeps.{sweep})"}
    table = gather_sweep(rows, root=root)
    done = table[table["mcc"].notna()].reset_index(drop=True)
    facts: dict[str, Any] = {"planned": len(table), "done": len(done), "epochs": {}}
    if done.empty:
        return pd.DataFrame(), {"missing": f"none of the {len(table)} trainings of the study {sweep} is done yet"}
    for row in rows:
        record = read_record(root / row["folder"] / "train.json")
        if record:
            facts["epochs"].setdefault(row["experiment"], record["options"].get("epochs", record.get("epochs")))
    seeds = done.groupby([key for key in SWEEP_KEYS if key != "seed"])["seed"].nunique()
    facts["seeds"] = " to ".join(map(str, sorted({seeds.min(), seeds.max()})))
    done["value"] = pd.to_numeric(done["value"])
    facts["cubes"] = list(dict.fromkeys(done["telescope"] + "/" + done["pipeline"]))
    return done[[*SWEEP_KEYS, *SCORES, *GAPS]], facts


def full_gaps(plan: Mapping[str, Any], root: str | Path) -> pd.DataFrame:
    """Accuracy gaps of the trainings of Table 5. They use all cutouts, so they are the largest training sets available.

    Returns
    -------
    pandas.DataFrame
        telescope, pipeline, n_images, experiment, seed, n_train and `otrain_core.paper.claims.GAPS`; for the protocol
        of the paper if the run has it.
    """
    rows = []
    for cube in plan["cubes"]:
        for experiment in plan["experiments"]:
            for seed in plan["seeds"]:
                folder = Path(root, training_folder(plan, cube, experiment, shown_protocol(plan), seed))
                history = table_if_there(folder / "history.csv")
                if history is None or history.empty:
                    continue
                telescope, pipeline = cube.split("/")
                row = {"telescope": telescope, "pipeline": pipeline, "experiment": experiment, "seed": seed}
                row["n_images"] = number(read_record(Path(root, cube, "cube.json")), "n_images_used")
                row["n_train"] = number(read_record(folder / "train.json"), "n_train")
                row["fit_minus_validation"] = history["accuracy"].iloc[-1] - history["validation_accuracy"].iloc[-1]
                gap = read_record(folder / "metrics.json").get("accuracy_gap") or {}
                rows.append(row | {"train_minus_validation": number(gap, "train_minus_validation")})
    return pd.DataFrame(rows)


def find_training(
    root: Path,
    plan: Mapping[str, Any],
    cube: str,
    experiment: str,
    *,
    file: str,
    protocols: Sequence[str] | None = None,
) -> Path | None:
    """Folder of the first training that has a file: of the protocol of the paper if there is one, otherwise by image."""
    for protocol in protocols or dict.fromkeys((shown_protocol(plan), "by-image")):
        for seed in plan["seeds"]:
            folder = root / training_folder(plan, cube, experiment, protocol, seed)
            if (folder / file).is_file():
                return folder
    return None


def images_behind(root: Path, plan: Mapping[str, Any], cube: str) -> dict[str, Any]:
    """Number of images of a cube, and the methods by which they were subtracted."""
    images = [image_folder(root / cube, image) for image in plan["images"][cube.split("/")[0]]]
    methods = {read_record(folder / "subtract.json").get("method") for folder in images}
    used = number(read_record(root / cube / "cube.json"), "n_images_used")
    return {"n_images": int(used) if np.isfinite(used) else None, "subtraction": sorted(filter(None, methods))}


def pixels(image: np.ndarray) -> str:
    """A square image as text: values with four digits, row by row from the bottom, nan where missing."""
    return " ".join(f"{value:.4g}" for value in np.asarray(image, dtype=float).ravel())


def image_of(row: Mapping[str, Any]) -> np.ndarray:
    """The square image of a row with columns side and pixels."""
    return np.array(str(row["pixels"]).split(), dtype=np.float32).reshape(int(row["side"]), int(row["side"]))
