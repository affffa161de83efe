"""The detector network judged on test images, beside the chain of detector and classifier (study `finder`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.arrays import read_stack
from otrain_core.candidates.planes import Field, Planes, add_limits
from otrain_core.chain.steps import ImageSteps
from otrain_core.classify.classifier import Classifier
from otrain_core.classify.finder import Finder
from otrain_core.errors import CubeError, UpstreamFailed
from otrain_core.evaluation.bootstrap import draw_images, percentile_interval
from otrain_core.evaluation.cuts import FixedCuts, Properties, fit_cuts
from otrain_core.evaluation.found import Judged, completeness, curve, judge, score_at
from otrain_core.figures.canvas import save_figure
from otrain_core.figures.finder import MAIN, draw_finder
from otrain_core.images.frames import MASK_MISSING, read_planes, write_planes
from otrain_core.images.pixels import add_stamp
from otrain_core.io import read_table, write_table
from otrain_core.networks.tiles import shifted_reference
from otrain_core.networks.train_finder import images_of, tile_images
from otrain_core.plan.config import EvaluateOptions
from otrain_core.plan.finder import FinderOptions
from otrain_core.plan.pipelines import CrossmatchOptions, Pipeline
from otrain_core.plan.recipe import Recipe, read_recipe
from otrain_core.plan.telescopes import Detector
from otrain_core.results import image_folder
from otrain_core.temporary import temporary_folder

CHAIN, CUTS, THRESHOLD = "detector + classifier", "detector + fixed cuts", "detector"
FINDER, WITHOUT = "finder", "finder, no difference"
BINS = ((4.0, 5.0), (5.0, 7.0), (7.0, 10.0), (5.0, 10.0), (10.0, 20.0), (20.0, np.inf))  # S/N
RATES = (0.25, 1.0, 4.0)  # false alarms an image
MOST_FALSE = 60.0  # false alarms an image at the end of a curve
AT_TEN = (8.0, 12.5)  # S/N at which positions are compared with the limit
MEDIAN_RADIUS = np.sqrt(2 * np.log(2))  # median distance of two errors of unit standard deviation
PAIR_SNR = (15.0, 40.0)
SEPARATIONS = (1.0, 1.5, 2.0, 3.0)  # of pairs [FWHM]
PAIRS = 12  # of an image and separation
TRAIL_SNR = 10.0  # of a pixel in the middle of the satellite trail


@dataclass(frozen=True)
class Judges:
    """What images are searched with, and how what is found is judged.

    Attributes
    ----------
    finder : Finder
    classifier : Classifier or None
        Scores the candidates of the detector.
    cuts : FixedCuts
    recipe : Recipe
        Of the pipeline.
    crossmatch : CrossmatchOptions
    least_snr : float
        Of the sources that count.
    """

    finder: Finder
    classifier: Classifier | None
    cuts: FixedCuts
    recipe: Recipe
    crossmatch: CrossmatchOptions
    least_snr: float

    def judged(self, found: pd.DataFrame, field: Field) -> Judged:
        """What was found in an image against its sources."""
        return judge(found, field, options=self.crossmatch, least_snr=self.least_snr)

    def by_finder(self, field: Field) -> dict[str, Judged]:
        """With and without the difference."""
        ways = {FINDER: field.planes, WITHOUT: field.planes.without_difference()}
        return {name: self.judged(self.finder.find(planes, threshold=0.0), field) for name, planes in ways.items()}

    def by_chain(self, labelled: pd.DataFrame, stack: Mapping[str, Any], field: Field) -> dict[str, Judged]:
        """By the detector alone, its candidates under fixed cuts, and those scored by the classifier."""
        found = labelled[["x", "y", "snr"]].assign(score=labelled["snr"])
        inside = replace(self.cuts, snr_min=-np.inf).accept(properties(labelled))
        tables = {THRESHOLD: found, CUTS: found.assign(score=found["snr"].where(inside, -np.inf))}
        if self.classifier is not None:
            scores = self.classifier.classify(dict(stack) | {"cube": stack["stack"]})["score"]
            by_name = dict(zip(np.asarray(stack["candid"]).astype(str), np.asarray(scores, float), strict=True))
            tables[CHAIN] = found.assign(score=labelled["candid"].map(by_name).fillna(-np.inf))
        return {name: self.judged(table[np.isfinite(table["score"])], field) for name, table in tables.items()}


def properties(labelled: pd.DataFrame) -> Properties:
    """What fixed cuts look at, of a table of the step crossmatch."""
    values = {name: labelled[name].to_numpy(float) for name in ("snr", "fwhm", "seeing", "negative")}
    return Properties(values["snr"], values["fwhm"] / values["seeing"], values["negative"], "seeing")


def finder_study_files(
    *,
    cube: str | Path,
    split: str | Path,
    finders: Mapping[int, str | Path],
    classifier: str | Path | None,
    tables: Mapping[str, str | Path],
    figure: str | Path,
    options: FinderOptions,
    evaluate: EvaluateOptions,
    crossmatch: CrossmatchOptions,
    seed: int,
) -> None:
    """Judge detector networks on the test images of a cube.

    Parameters
    ----------
    cube : path-like
        Its folder.
    split : path-like
    finders : mapping
        ONNX files by seed.
    classifier : path-like or None
        ONNX file of the network that scores the detector's candidates, trained on the same images.
    tables : mapping
        Files written: completeness, curves, precision and stress (CSV).
    figure : path-like
        PNG.
    options : FinderOptions
    evaluate : EvaluateOptions
    crossmatch : CrossmatchOptions
    seed : int
        Of the draws.

    Raises
    ------
    CubeError
        No test image has kept its difference, or the classifier does not say how its cutouts were made.
    """
    scorer = Classifier.load(classifier) if classifier else None
    recipe = read_recipe(scorer.about, where=str(classifier)) if scorer else None
    if scorer is not None and recipe is None:
        raise CubeError(f"{classifier}: does not say how its cutouts were made")
    cuts = _fitted_cuts(cube, split)
    fields = [one.field for one in tile_images(cube, split, "test")]
    if not fields:
        raise CubeError(f"{split}: no test image whose difference was kept; the study needs some")
    chain: dict[str, list[Judged]] = {}
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in tables}
    for number, path in finders.items():
        judges = Judges(
            Finder(path), scorer, cuts, recipe or Recipe(Pipeline(), Detector()), crossmatch, options.min_snr
        )
        if not chain:
            chain = _chain_of(cube, fields, judges)
        network = _by_name([judges.by_finder(field) for field in fields])
        rng = np.random.default_rng([seed, number])
        found = chain | network
        parts["completeness"].append(_completeness(found, evaluate, rng).assign(seed=number))
        parts["curves"].append(_curves(found).assign(seed=number))
        parts["precision"].append(_precision(found, evaluate, rng).assign(seed=number))
        limits = {name: score_at(some, 1.0) for name, some in found.items()}
        stressed = stress(cube, fields[: options.stress_images], judges, limits, rng=rng)
        parts["stress"].append(stressed.assign(seed=number))
    results = {name: pd.concat(some, ignore_index=True) for name, some in parts.items()}
    for name, table in results.items():
        write_table(tables[name], table)
    save_figure(figure, draw_finder(results["curves"], results["completeness"], results["stress"]))


def _fitted_cuts(cube: str | Path, split: str | Path) -> FixedCuts:
    """Cuts of the highest MCC on the candidates of the training and validation sets."""
    found = []
    for image in [*images_of(split, "train"), *images_of(split, "validation")]:
        try:
            found.append(read_table(image_folder(cube, image) / "labelled.csv"))
        except UpstreamFailed:
            continue
    labelled = pd.concat(found, ignore_index=True)
    labelled = labelled[labelled["label"] >= 0]
    return fit_cuts(properties(labelled), labelled["label"].to_numpy() == 1, np.ones(len(labelled), bool))


def _chain_of(cube: str | Path, fields: Sequence[Field], judges: Judges) -> dict[str, list[Judged]]:
    folders = [image_folder(cube, field.image) for field in fields]
    return _by_name(
        [
            judges.by_chain(read_table(folder / "labelled.csv"), dict(read_stack(folder / "cutouts.npz")), field)
            for folder, field in zip(folders, fields, strict=True)
        ]
    )


def _by_name(found: Sequence[Mapping[str, Judged]]) -> dict[str, list[Judged]]:
    return {name: [one[name] for one in found] for name in found[0]}


def _completeness(
    found: Mapping[str, Sequence[Judged]], evaluate: EvaluateOptions, rng: np.random.Generator
) -> pd.DataFrame:
    """By S/N and false alarms; of the main bin also by the kind of place."""
    kinds = sorted(set().union(*(one.sources["kind"] for one in next(iter(found.values())))))
    asked = [(low, high, rate, None) for low, high in BINS for rate in RATES]
    asked += [(*MAIN, 1.0, kind) for kind in kinds]
    baseline = CHAIN if CHAIN in found else THRESHOLD
    tables = [
        completeness(
            found, low=low, high=high, per_image=rate, kind=kind, options=evaluate, rng=rng, baseline=baseline
        ).assign(snr_low=low, snr_high=high, kind=kind or "all")
        for low, high, rate, kind in asked
    ]
    return pd.concat(tables, ignore_index=True)


def _curves(found: Mapping[str, Sequence[Judged]]) -> pd.DataFrame:
    tables = [curve(some, low=MAIN[0], high=MAIN[1]).assign(detector=name) for name, some in found.items()]
    table = pd.concat(tables, ignore_index=True)
    return table[table["false_alarms"] <= MOST_FALSE]


def _precision(
    found: Mapping[str, Sequence[Judged]], evaluate: EvaluateOptions, rng: np.random.Generator
) -> pd.DataFrame:
    """Median position error in units of that of the limit, at S/N 10, and bias and scatter of the logarithm of the S/N.

    Of the sources that every detector matched: what one finds and another does not would be compared else.
    """
    names, rows = list(found), []
    per_image = []
    for several in zip(*found.values(), strict=True):
        there = np.all([np.isfinite(one.sources["score"]) for one in several], axis=0)
        there &= several[0].sources["snr"].between(*AT_TEN).to_numpy() & ~several[0].sources["real"].to_numpy()
        per_image.append([one.sources[there] for one in several])
    weights = draw_images(len(per_image), rng=rng, draws=evaluate.bootstrap)
    for k, name in enumerate(names):
        table = pd.concat([some[k].assign(number=number) for number, some in enumerate(per_image)])
        ratio = (table["distance"] / (MEDIAN_RADIUS * table["limit"])).to_numpy(float)
        off = np.log(table["found_snr"] / table["snr"]).to_numpy(float)
        number, known = table["number"].to_numpy(int), np.isfinite(ratio)
        draws = [
            np.median(np.repeat(ratio[known], draw[number[known]])) for draw in weights if draw[number[known]].any()
        ]
        low, high = percentile_interval(np.array(draws), evaluate.confidence)
        row = {
            "detector": name,
            "n": int(known.sum()),
            "position_ratio": np.nanmedian(ratio) if known.any() else np.nan,
        }
        row |= {"position_ratio_low": low, "position_ratio_high": high, "flux_bias": np.nanmedian(off)}
        rows.append(row | {"flux_scatter": 1.4826 * np.nanmedian(np.abs(off - np.nanmedian(off)))})
    return pd.DataFrame(rows)


Scene = Callable[[Field, dict[str, np.ndarray], np.random.Generator], tuple[dict[str, np.ndarray], pd.DataFrame]]


def stress(
    cube: str | Path,
    fields: Sequence[Field],
    judges: Judges,
    limits: Mapping[str, float],
    *,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Completeness and false alarms of images that something is wrong with, at the scores of one false alarm an image.

    Returns
    -------
    pandas.DataFrame
        test, detector, images, n (sources from S/N 5 to 10; pairs), completeness (pairs: share of which both are
        found), false_alarms (an image).
    """
    rows = []
    for name, scene in scenes().items():
        found: list[dict[str, Judged]] = []
        for field in fields:
            raw, _ = read_planes(image_folder(cube, field.image) / "difference.fits", image=field.image)
            planes, sources = scene(field, raw, rng)
            found.append(
                _search(image_folder(cube, field.image), replace(field, sources=sources), raw | planes, judges)
            )
        for detector, judged in _by_name(found).items():
            rows.append({"test": name, "detector": detector, "images": len(fields)})
            rows[-1] |= _of_scene(judged, limits[detector], pairs=name.startswith("pairs"))
    return pd.DataFrame(rows)


def _of_scene(judged: Sequence[Judged], limit: float, *, pairs: bool) -> dict[str, float]:
    table = pd.concat([one.sources for one in judged], ignore_index=True)
    hit = table["score"] > limit
    false_alarms = float(np.mean([np.sum(one.false > limit) for one in judged]))
    if pairs:
        both = hit[table["kind"].str.startswith("pair")].groupby([table["image"], table["kind"]]).agg(["size", "all"])
        both = both[both["size"] == 2]["all"]
        return {"n": len(both), "completeness": float(both.mean()), "false_alarms": false_alarms}
    chosen = table["snr"].between(*MAIN, inclusive="left") & ~table["real"]
    return {"n": int(chosen.sum()), "completeness": float(hit[chosen].mean()), "false_alarms": false_alarms}


def _search(folder: Path, field: Field, raw: Mapping[str, np.ndarray], judges: Judges) -> dict[str, Judged]:
    """Search an image whose planes were changed; by the difference alone, without a catalogue."""
    planes = Planes.of(
        raw["science"],
        raw["reference"],
        raw["diff"],
        raw["noise"],
        raw["mask"],
        seeing=field.planes.seeing,
        image=field.image,
    )
    field = replace(field, planes=planes)
    found = judges.by_finder(field)
    if judges.classifier is None:
        return found
    kind = judges.crossmatch.model_copy(
        update={"min_recovered": 0.0, "max_flux_bias": np.inf, "max_flux_scatter": np.inf}
    )
    detect = judges.recipe.pipeline.detect.model_copy(update={"search": ["difference"]})
    pipeline = judges.recipe.pipeline.model_copy(update={"crossmatch": kind, "detect": detect})
    with temporary_folder("finder") as place:
        for file in ("psf.fits", "psf.json", "subtract.json", "injected.csv"):
            copyfile(folder / file, place / file)
        write_planes(place / "difference.fits", dict(raw))
        recipe = replace(judges.recipe, pipeline=pipeline)
        run = ImageSteps(field.image, recipe, place, place, lambda *_: nullcontext())
        run.detect(catalogue=None)
        run.crossmatch(known=None, sky_truth=None)
        run.cutouts()
        return found | judges.by_chain(
            read_table(place / "labelled.csv"), dict(read_stack(place / "cutouts.npz")), field
        )


def scenes() -> dict[str, Scene]:
    """What is done to the images, by name: given the image, its planes and random numbers, the planes that change and
    the sources then."""
    found: dict[str, Scene] = {
        "as they are": lambda field, raw, rng: ({}, field.sources),
        "reference off by 0.3 px": _shifted(0.3),
        "reference off by 1 px": _shifted(1.0),
        "kernel too wide": _blurred,
        "mask lost, its pixels 0": _unmasked,
        "satellite trail": _trail,
        "half of the image missing": _half,
    }
    return found | {f"pairs {separation:g} FWHM apart": _pairs(separation) for separation in SEPARATIONS}


def _changed(planes: Planes, raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    mask = np.where(planes.bad & (raw["mask"] == 0), MASK_MISSING, raw["mask"]).astype(np.uint8)
    assert planes.difference is not None
    return {"diff": planes.difference, "science": planes.science, "reference": planes.reference, "mask": mask}


def _shifted(by: float) -> Scene:
    def scene(field, raw, rng):
        angle = rng.uniform(0, 2 * np.pi)
        return _changed(shifted_reference(field.planes, by * np.cos(angle), by * np.sin(angle)), raw), field.sources

    return scene


def _blurred(field, raw, rng):
    return _changed(shifted_reference(field.planes, 0, 0, blur=0.2 * field.planes.seeing), raw), field.sources


def _unmasked(field, raw, rng):
    lost = (raw["mask"] != 0) & (raw["mask"] != MASK_MISSING)
    planes = {name: np.where(lost, 0, raw[name]).astype(np.float32) for name in ("diff", "science", "reference")}
    noise = np.where(lost, np.nanmedian(raw["noise"]), raw["noise"]).astype(np.float32)
    return planes | {"mask": np.where(lost, 0, raw["mask"]).astype(np.uint8), "noise": noise}, field.sources


def _trail(field, raw, rng):
    y, x = np.indices(raw["diff"].shape)
    angle = rng.uniform(0, np.pi)
    distance = (x - x.mean()) * np.sin(angle) - (y - y.mean()) * np.cos(angle)
    profile = np.exp(-4 * np.log(2) * (distance / field.planes.seeing) ** 2)
    light = (TRAIL_SNR * np.nanmedian(raw["noise"]) * profile).astype(np.float32)
    return {"diff": raw["diff"] + light, "science": raw["science"] + light}, field.sources


def _half(field, raw, rng):
    middle = raw["mask"].shape[1] // 2
    mask, gone = raw["mask"].copy(), slice(None, middle)
    mask[:, gone] = MASK_MISSING
    planes = {name: raw[name].copy() for name in ("diff", "science", "reference")}
    for plane in planes.values():
        plane[:, gone] = np.nan
    reach = middle + 2 * field.planes.seeing
    return planes | {"mask": mask}, field.sources.assign(usable=field.sources["usable"] & (field.sources["x"] > reach))


def _pairs(separation: float) -> Scene:
    """Pairs of equal sources, away from all others and from bad pixels."""

    def scene(field, raw, rng):
        from scipy.ndimage import binary_dilation
        from scipy.spatial import cKDTree

        seeing, (height, width) = field.planes.seeing, field.planes.shape
        free = ~binary_dilation(field.planes.bad, iterations=int(np.ceil(3 * seeing)))
        taken = field.sources[["x", "y"]].to_numpy(float).tolist()
        planes = {name: raw[name].copy() for name in ("diff", "science")}
        rows: list[dict[str, Any]] = []
        for _ in range(50 * PAIRS):
            x, y = rng.uniform(24, width - 25), rng.uniform(24, height - 25)
            alone = not taken or cKDTree(taken).query((x, y))[0] >= 8 * seeing
            if len(rows) == 2 * PAIRS or not free[int(y), int(x)] or not alone:
                continue
            angle, snr = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(*np.log(PAIR_SNR)))
            flux = snr * field.planes.noise[int(y), int(x)] / np.sqrt(np.sum(field.psf.stamp(x, y)[0] ** 2))
            for sign in (-0.5, 0.5):
                place = x + sign * separation * seeing * np.cos(angle), y + sign * separation * seeing * np.sin(angle)
                stamp, top, left = field.psf.stamp(*place)
                add_stamp(planes["diff"], (flux * stamp).astype(np.float32), top, left)
                own, top, left = field.science_psf.stamp(*place)
                add_stamp(planes["science"], (flux * own).astype(np.float32), top, left)
                rows.append({"x": place[0], "y": place[1], "flux": flux, "kind": f"pair{len(rows) // 2}"})
                rows[-1] |= {"real": False, "usable": True}
            taken.append([x, y])
        added = add_limits(pd.DataFrame(rows), field.planes, field.psf) if rows else field.sources[:0]
        return planes, pd.concat([field.sources, added], ignore_index=True)

    return scene
