"""Compare HOTPANTS with O'TRAIN's own subtraction: ``python -m tools.beside_hotpants`` (HOTPANTS on the PATH).

The first simulated image of each cube of the paper is processed by its pipeline twice: once with HOTPANTS (Becker 2015,
ascl:1504.004), once with the Alard-Lupton subtraction that replaces HOTPANTS if it is missing. All steps before the
subtraction are the same. ``--search SCIENCE REFERENCE -m MODEL`` compares a complete search with HOTPANTS alone on the same pair.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otrain_core.errors import OtrainError

if TYPE_CHECKING:
    from otrain_core.chain.steps import ImageSteps
    from otrain_core.plan.chain import Chain
    from otrain_core.plan.recipe import Recipe

METHODS = ("hotpants", "alard-lupton")
OF_SUBTRACTION = ("noise_spread", "star_residual", "flux_scale", "masked_fraction", "kernel_order")
OF_CROSSMATCH = ("flux_bias", "flux_scatter", "completeness_50_mag", "n_injected", "n_recovered", "n_false")
# Defaults of HOTPANTS 5.1.11.
DEFAULTS = {"ng": [3, 6, 0.7, 4, 1.5, 2, 3.0], "r": 10, "rss": 15, "ko": 2, "bgo": 1, "nsx": 10, "nsy": 10} | {
    "ks": 2.0,
    "ft": 20.0,
    "ssf": "none",
}


def spent() -> float:
    """CPU time of this process and of the programs that it ran [s]."""
    return sum(os.times()[:4])


def counting(program: str, folder: Path) -> tuple[str, Path]:
    """Write a command that runs HOTPANTS and appends the CPU time of each run to a file; return both paths."""
    script, times = folder / "hotpants", folder / "times.txt"
    script.write_text(
        f'#!/bin/sh\n{shlex.quote(program)} "$@"\nstatus=$?\ntimes >> {shlex.quote(str(times))}\nexit $status\n'
    )
    script.chmod(0o755)
    return str(script), times


def program_seconds(times: Path) -> float:
    """CPU time (user and system) of the last run in a file of `counting` [s]."""
    last = times.read_text().splitlines()[-1]
    return sum(60 * float(m) + float(s) for m, s in re.findall(r"(\d+)m([\d.]+)s", last))


def version(program: str) -> str:
    """Version that HOTPANTS prints."""
    said = subprocess.run([program], capture_output=True, text=True, check=False)
    found = re.search(r"Version\s+(\S+)", said.stdout + said.stderr)
    return found.group(1) if found else "unknown"


def with_method(recipe: Recipe, method: str, program: str) -> Recipe:
    """A recipe whose subtraction is `method`, without a fallback."""
    from dataclasses import replace

    update = {"method": method, "fallback": None, "hotpants_program": program}
    subtract = recipe.pipeline.subtract.model_copy(update=update)
    return replace(recipe, pipeline=recipe.pipeline.model_copy(update={"subtract": subtract}))


def first_image(cube: str, configs: list[str], *, side: int | None) -> Chain:
    """The first image of a cube of these configurations; a frame cut to `side` has fewer injected sources, in proportion to its area."""
    from otrain_core.plan.chain import Chain, chain_record
    from otrain_core.plan.run import Run

    telescope, pipeline = cube.split("/")
    run = Run.from_files(configs)
    chain = Chain.model_validate(chain_record(run, telescope, pipeline, next(iter(run.inputs.images(telescope)))))
    chain = chain.model_copy(update={"frames": chain.frames[:1]})
    sky = chain.simulated.sky
    if side is None or side >= min(sky.width, sky.height):
        return chain
    inject = chain.pipeline.inject
    n = round(inject.n_sources * side**2 / (sky.width * sky.height))
    cut = sky.model_copy(update={"width": side, "height": side})
    simulated = chain.simulated.model_copy(update={"sky": cut})
    options = chain.pipeline.model_copy(update={"inject": inject.model_copy(update={"n_sources": n})})
    return chain.model_copy(update={"simulated": simulated, "pipeline": options})


def begin(chain: Chain, folder: Path) -> tuple[ImageSteps, dict[str, Path]]:
    """Simulate an image and run all steps before the subtraction."""
    from otrain_core.chain.steps import ImageSteps
    from otrain_core.plan.recipe import Recipe
    from otrain_core.sky.simulate import simulate_files
    from otrain_core.sky.simulated_catalogue import simulated_catalogue_files

    frame, files = chain.frames[0], {name: folder / f"{name}.fits" for name in ("science", "reference")}
    files |= {name: folder / f"{name}.csv" for name in ("truth", "catalogue", "known")}
    of_sky = {"science": files["science"], "truth": files["truth"], "image": frame.image, "seed": chain.seed}
    simulate_files(**of_sky, reference=files["reference"], telescope=chain.simulated, index=frame.number)
    of_catalogue = {"telescope": chain.telescope, "beta": chain.simulated.sky.psf_beta}
    simulated_catalogue_files(**of_sky, **of_catalogue, catalogue=files["catalogue"], known=files["known"])
    recipe = Recipe(chain.pipeline, chain.detector, telescope=chain.telescope, name=chain.name)
    run = ImageSteps(frame.image, recipe, folder, folder, lambda *names: nullcontext())
    run.psf(files["science"], catalogue=files["catalogue"] if chain.psf_catalogue else None, needs_wcs=chain.needs_wcs)
    run.inject(files["science"], seed=chain.seed)
    return run, files


def compare(cube: str, chain: Chain, program: str) -> list[dict[str, Any]]:
    """Residuals, completeness and cost for one image, one row for each method."""
    from dataclasses import replace

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run, files = begin(chain, Path(folder))
        command, times = counting(program, Path(folder))
        for method in METHODS:
            one, before = replace(run, recipe=with_method(run.recipe, method, command)), spent()
            row: dict[str, Any] = {"cube": cube, "method": method, "reason": ""}
            try:
                one.subtract(one.file("injected.fits"), files["reference"], injected=one.file("injected.csv"))
                row |= {"cpu_seconds": spent() - before}
                one.detect(catalogue=files["catalogue"] if chain.detect_catalogue else None)
                one.crossmatch(known=files["known"] if chain.knows_objects else None, sky_truth=files["truth"])
                row |= measured(one)
            except OtrainError as error:
                row["reason"] = str(error)
            row["program_cpu_seconds"] = program_seconds(times) if method == "hotpants" and times.is_file() else None
            rows.append(row)
    return rows


def measured(run: ImageSteps) -> dict[str, Any]:
    """Quality of the difference of an image, from its records."""
    from otrain_core.io import read_json

    found: Mapping[str, Any] = read_json(run.file("subtract.json"))
    matched, psf = read_json(run.file("crossmatch.json")), read_json(run.file("psf.json"))
    row = {name: found.get(name) for name in OF_SUBTRACTION} | {name: matched.get(name) for name in OF_CROSSMATCH}
    row["bright_share"] = matched["bright_recovered"] / max(matched["bright_injected"], 1)
    return row | {"limit_mag": psf.get("limit_mag"), "convolved": found["convolved"]}


def beside_search(
    science: str, reference: str, model: str, program: str, *, gain: float | None
) -> list[dict[str, Any]]:
    """CPU time [s] of a complete search (without imports and loading of the model) and of HOTPANTS on the same pair."""
    from otrain_core.chain.steps import ImageSteps
    from otrain_core.classify import Classifier
    from otrain_core.night.search import search_image
    from otrain_core.plan.pipelines import GMADET, Pipeline
    from otrain_core.plan.recipe import Recipe, read_recipe
    from otrain_core.plan.telescopes import Detector

    classifier, of_gmadet = Classifier.load(model), GMADET.subtract.hotpants_options
    recipe = read_recipe(classifier.about, where=model) or Recipe(Pipeline(), Detector(gain=gain), "", "builtin")
    of_search = {"reference": reference, "classifier": classifier, "recipe": recipe}
    before = spent()
    search_image(science, image="first", **of_search)
    rows = [{"what": "search, first image", "cpu_seconds": spent() - before}]
    before = spent()
    search_image(science, image="further", **of_search)
    rows.append({"what": "search, further image", "cpu_seconds": spent() - before})
    with tempfile.TemporaryDirectory() as folder:
        command, times = counting(program, Path(folder))
        for name, options in (
            ("derived options", {}),
            ("its own defaults", DEFAULTS),
            ("options of gmadet", of_gmadet),
        ):
            one = with_method(recipe, "hotpants", command)
            subtract = one.pipeline.subtract.model_copy(update={"hotpants_options": options})
            one = Recipe(one.pipeline.model_copy(update={"subtract": subtract}), recipe.detector, "", "builtin")
            run = ImageSteps("pair", one, Path(folder), Path(folder), lambda *names: nullcontext())
            run.psf(science, catalogue=None)
            run.subtract(science, reference)
            rows.append({"what": f"hotpants alone, {name}", "cpu_seconds": program_seconds(times)})
    return rows


def main(
    output: str, configs: list[str], *, side: int | None, pair: list[str] | None, model: str, gain: float | None
) -> None:
    """Measure, and write ``images.csv`` or, for a pair, ``search.csv``, each with a JSON file of versions and machine."""
    import pandas as pd

    from otrain_core.io import write_json, write_table
    from otrain_core.jobs.provenance import provenance
    from otrain_core.plan.run import Run
    from otrain_core.programs import find_program

    program, folder = find_program("hotpants"), Path(output)
    if pair:
        name, rows = "search", beside_search(*pair, model, program, gain=gain)
    else:
        cubes = Run.from_files(configs).config.run.cubes
        name, rows = (
            "images",
            [row for cube in cubes for row in compare(cube, first_image(cube, configs, side=side), program)],
        )
    table = pd.DataFrame(rows).round(4)
    write_table(folder / f"{name}.csv", table)
    record = {key: value for key, value in provenance().items() if key in ("commit", "time", "cpus", "versions")}
    write_json(folder / f"{name}.json", record | {"hotpants": version(program), "side": side})
    print(table.to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("-o", "--output", default="results/published/hotpants")
    parser.add_argument("--config", nargs="+", default=["config/paper.yaml"])
    parser.add_argument(
        "--side", type=int, help="largest side of a frame [px] (default: whole frames, which takes ten minutes)"
    )
    parser.add_argument("--search", nargs=2, metavar=("SCIENCE", "REFERENCE"), help="measure a search of this pair")
    parser.add_argument("-m", "--model", default="universal")
    parser.add_argument(
        "--gain", type=float, help="gain of the pair, if neither its header nor the model gives it [electron/ADU]"
    )
    given = parser.parse_args()
    main(given.output, given.config, side=given.side, pair=given.search, model=given.model, gain=given.gain)
