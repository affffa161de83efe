"""Contents of the reproduction of the paper: figures and tables, the cubes they show and the files they read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otrain_core import results
from otrain_core.plan.run import Run

FIGURES = tuple([f"fig{number:02d}" for number in range(1, 14)] + [f"figA{number}" for number in range(1, 5)])
TABLES = tuple(f"table{number}" for number in range(1, 6))
CUBES = ("JAST/gmadet", "JAST/stdpipe", "TACA/gmadet", "FRAM-CTA-N/gmadet", "TCA/gmadet")  # as in table 5
EXPERIMENTS = ("paper", "otrain2")
SWEEPS = {"fig11": "data-size", "fig12": "size"}
FIGURE_CUBES: dict[str, tuple[str, ...]] = dict.fromkeys(("fig02", "fig04", "fig09", "fig10", "fig13"), CUBES[:1])
FIGURE_CUBES |= {"fig05": CUBES[:2], "fig06": CUBES[3:4], "fig07": CUBES[2:3], "fig08": CUBES[4:5]}
FIGURE_CUBES |= {f"figA{number}": (CUBES[number],) for number in range(1, 5)}
PANELS = ("fig10", "figA1", "figA2", "figA3", "figA4")
GALLERIES = ("fig05", "fig06", "fig07", "fig08")
MAPS = ("fig09", "fig13")


def plan_paper(run: Run) -> dict[str, Any]:
    """The properties of a run that the rules of the paper need, as plain values.

    Returns
    -------
    dict
        cubes (those of the paper that the run has, in the order of Table 5), experiments (options by name), seeds,
        protocols, images (names by telescope), telescopes (their entries), sweeps (trainings by name), bootstrap,
        confidence and seed.
    """
    config = run.config
    cubes = [cube for cube in CUBES if cube in config.run.cubes]
    telescopes = list(dict.fromkeys(cube.split("/")[0] for cube in cubes))
    asked = [name for name in EXPERIMENTS if name in config.run.experiments]
    return {
        "cubes": cubes,
        "experiments": {name: config.experiments[name].model_dump() for name in asked},
        "seeds": list(config.run.seeds),
        "protocols": list(config.run.protocols),
        "images": {name: run.inputs.images(name) for name in telescopes},
        "telescopes": {name: run.telescopes[name].model_dump() for name in telescopes},
        "sweeps": {name: run.studies.sweep(name) for name in SWEEPS.values() if name in config.studies.sweeps},
        "bootstrap": config.evaluate.bootstrap,
        "confidence": config.evaluate.confidence,
        "seed": config.seed,
    }


def cubes_of(plan: Mapping[str, Any], figure: str) -> list[str]:
    """Cubes of a figure that the run has."""
    return [cube for cube in FIGURE_CUBES.get(figure, ()) if cube in plan["cubes"]]


def training_folder(plan: Mapping[str, Any], cube: str, experiment: str, protocol: str, seed: int | None = None) -> str:
    """Folder of a training, relative to the results; by default for the first seed."""
    return results.training_folder(cube, experiment, plan["seeds"][0] if seed is None else seed, protocol)


def trainings(plan: Mapping[str, Any]) -> list[str]:
    """Folders of all trainings of Table 5, relative to the results."""
    return [
        training_folder(plan, cube, experiment, protocol, seed)
        for cube in plan["cubes"]
        for experiment in plan["experiments"]
        for protocol in plan["protocols"]
        for seed in plan["seeds"]
    ]


def shown_protocol(plan: Mapping[str, Any]) -> str:
    """The protocol of Figs. 2, 10 and A.1 to A.4: that of the paper if the run has it."""
    return "random" if "random" in plan["protocols"] else "by-image"


def figure_sources(plan: Mapping[str, Any], figure: str) -> list[str]:
    """Files from which a figure is drawn, relative to the results."""
    cubes, name = cubes_of(plan, figure), next(iter(plan["experiments"]), None)
    # Fig. 4 reads records of images. They exist once the cube does, fused or not.
    if figure in GALLERIES or figure == "fig04":
        return [f"{cube}/cube.npz" for cube in cubes]
    if figure in SWEEPS:
        return [f"studies/{SWEEPS[figure]}.csv"] if SWEEPS[figure] in plan["sweeps"] else []
    if name is None or figure not in FIGURE_CUBES:
        return []
    if figure in MAPS:
        files = ("gradcam.npz", "neighbours.csv", "explain.json", "metrics.json")
        folders = [training_folder(plan, cube, each, "by-image") for cube in cubes for each in plan["experiments"]]
        return [f"{folder}/{file}" for folder in folders for file in files] if "by-image" in plan["protocols"] else []
    drawn = (
        ["train.json"]
        if figure == "fig02"
        else ["metrics.json", "scores.csv", "history.csv", "curves.csv", "train.json"]
    )
    return [f"{training_folder(plan, cube, name, shown_protocol(plan))}/{file}" for cube in cubes for file in drawn]


def table_sources(plan: Mapping[str, Any], table: str) -> list[str]:
    """Files from which a table is made, relative to the results."""
    if table == "table1":
        return [f"{cube}/cube.npz" for cube in plan["cubes"][:1]]
    if table == "table2":
        return ["quality.csv"]
    if table == "table3":
        return [f"{cube}/cube.json" for cube in plan["cubes"]]
    if table == "table4":
        name = next(iter(plan["experiments"]), None)
        folders = [training_folder(plan, cube, name, shown_protocol(plan)) for cube in plan["cubes"][:1] if name]
        return [f"{folder}/metrics.json" for folder in folders]
    return ["summary.csv", "experiments.csv"]


def under(root: str | Path, files: list[str]) -> list[str]:
    """Prepend the folder of the results to the paths of files."""
    return [f"{root}/{file}" for file in files]
