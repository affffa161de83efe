"""The verb ``search`` of the command ``otrain``: find and score the candidates in new images."""

from __future__ import annotations

import logging
import os
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otrain_core.classify.finder import load_finder
from otrain_core.classify.shipped import NAME as SHIPPED
from otrain_core.cli.classify import load_classifier
from otrain_core.errors import ConfigError, ImageError, OtrainError
from otrain_core.evaluation.words import decisions
from otrain_core.io import shown, write_json
from otrain_core.night.context import Catalogues
from otrain_core.night.hand_on import HandOn, end_night, keep
from otrain_core.night.ledger import Ledger
from otrain_core.night.references import check_reference
from otrain_core.night.search import Search, no_sky, search_image
from otrain_core.plan.recipe import Recipe, read_recipe
from otrain_core.plan.telescopes import NETWORK_CATALOGUES, NETWORK_KNOWN
from otrain_core.safe import safe_name
from otrain_core.temporary import temporary_folder

if TYPE_CHECKING:
    from otrain_core.classify import Classifier

log = logging.getLogger("otrain")

ALL = "search"  # all images of one search belong to one night of the ledger


def search(arguments: Namespace) -> tuple[int, Any, str]:
    """Search images.

    Returns
    -------
    tuple
        Exit status (1 if an image is refused), record for ``--json``, and text.
    """
    if any(path.endswith((".yaml", ".yml")) for path in arguments.science):
        from otrain_core.cli.project import search_project

        return search_project(arguments)
    classifier = load_classifier(arguments)
    recipe = choose_recipe(arguments, classifier.about)
    folder, names = Path(arguments.output), image_names(arguments.science)
    calibrations = _calibrations(arguments.science, names)
    if arguments.reference:
        check_reference(arguments.reference, option="--reference")
    _make_folder(folder)
    hand_on, ledger = choose_hand_on(arguments, classifier.about), Ledger(":memory:")
    catalogues = choose_catalogues(arguments)
    done, refused = [], []
    with temporary_folder("reference") as work:
        stack = _stacked(arguments.stack, recipe, work) if arguments.stack else arguments.reference
        for path, name in zip(arguments.science, names, strict=True):
            one = getattr(arguments, "by_image", {}).get(path, arguments)  # images of a project have their own
            try:
                if path in calibrations:
                    raise ImageError(name, "type", calibrations[path])
                reference = _reference(one, path, stack or one.reference, name, work)
                found = search_image(
                    path,
                    reference=reference,
                    classifier=classifier,
                    recipe=recipe,
                    image=name,
                    wcs=one.wcs,
                    catalogue=arguments.catalogue,
                    difference=folder / f"{name}.difference.fits" if arguments.keep_difference else None,
                    catalogues=catalogues,
                )
                number, _ = ledger.begin(name, path=str(path), name=name) or (0, "")
                keep(
                    found,
                    ledger,
                    number,
                    name=name,
                    night=ALL,
                    folder=folder,
                    gallery=arguments.gallery,
                    hand_on=hand_on,
                )
                done.append(found.record)
                _tell(arguments, f"{path}: {decisions(found.record)}")
                if arguments.inject:
                    _add_limits(one, found, path, reference, classifier, recipe, folder)
            except OtrainError as error:
                refused.append({"science": shown(path), "image": name, "reason": str(error)})
                print(f"{path}: {error} (refused)", file=sys.stderr)
    end_night(ledger, ALL, folder, hand_on)
    about = {key: classifier.about.get(key) for key in ("telescope", "pipeline", "experiment", "seed", "commit")}
    record = {"model": about, "threshold": classifier.threshold, "images": done, "refused": refused}
    record["recipe"] = recipe.record()
    write_json(folder / "search.json", record)
    text = "\n".join(f"{folder / item['image']}.ecsv: {decisions(item)}" for item in done)
    return int(bool(refused)), record, text


def _calibrations(paths: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Calibration frames, with the reason why they cannot be searched; an OtrainError if there are no other frames."""
    found = {}
    for path, name in zip(paths, names, strict=True):
        kind, why = no_sky(path, image=name)
        if kind:
            found[path] = f"is a {kind} frame according to its header ({why}) and cannot be searched"
    if found and len(found) == len(names):
        path, reason = next(iter(found.items()))
        raise OtrainError(f"{shown(path)}: {reason}")
    return found


def _make_folder(folder: Path) -> None:
    """Make the output folder, and check before the search that it is writable."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise OtrainError(f"{shown(folder)}: this folder is not writable")


def _add_limits(
    arguments: Namespace,
    found: Search,
    path: str,
    reference: str | Path,
    classifier: Classifier,
    recipe: Recipe,
    folder: Path,
) -> None:
    """Measure the completeness of the search with injected sources (--inject); write it, and add it to the record."""
    from otrain_core.night.limits import limits_in_words, measure_limits, write_limits

    limits = measure_limits(
        path,
        reference=reference,
        classifier=classifier,
        recipe=recipe,
        found=found,
        n=arguments.inject,
        seed=arguments.inject_seed,
        wcs=arguments.wcs,
        catalogue=arguments.catalogue,
    )
    name = found.record["image"]
    write_limits(folder, name, limits, instrumental=found.record["zero_point_source"] == "assumed")
    found.record["limits"] = limits.record
    _tell(arguments, f"{path}: {limits_in_words(limits.record)}")


def image_names(paths: list[str]) -> list[str]:
    """Names of images from their file names, with the name of the folder if a file name occurs more than once.

    Raises
    ------
    ConfigError
        Two images would have the same name.
    """
    plain = [re.sub(r"\.(fits?|fts)(\.(fz|gz|bz2))?$", "", Path(path).name, flags=re.I) for path in paths]
    names = []
    for path, name in zip(paths, plain, strict=True):
        full = f"{Path(path).resolve().parent.name}-{name}" if plain.count(name) > 1 else name
        names.append(safe_name(full, fallback="image"))
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two images would be named {name!r}; search them one after the other, or rename one")
    return names


def choose_recipe(arguments: Namespace, about: dict[str, Any]) -> Recipe:
    """The recipe of the model, changed by the options of the command line.

    Parameters
    ----------
    arguments : argparse.Namespace
    about : dict
        Metadata of the model.

    Returns
    -------
    Recipe

    Raises
    ------
    ConfigError
        Unknown --pipeline, or --finder is not a detector network.
    """
    from otrain_core.plan.config import Config
    from otrain_core.plan.telescopes import Detector

    recipe = read_recipe(about, where=str(arguments.model))
    pipelines = Config().pipelines
    if arguments.pipeline:
        if arguments.pipeline not in pipelines:
            raise ConfigError(f"--pipeline: {arguments.pipeline!r} is not one of {', '.join(pipelines)}")
        if recipe is not None and recipe.name != arguments.pipeline:
            log.warning(
                "the model was trained with pipeline %s; its scores may be wrong for %s",
                recipe.name,
                arguments.pipeline,
            )
        detector = recipe.detector if recipe else Detector()
        recipe = Recipe(pipelines[arguments.pipeline], detector, str(about.get("telescope") or ""), arguments.pipeline)
    if recipe is None and arguments.model == SHIPPED:  # it was trained on many pipelines and detectors
        recipe = Recipe(pipelines["builtin"], Detector(), SHIPPED, "builtin")
    if recipe is None:
        log.warning("%s: the model does not say how its cutouts were made; pipeline builtin is used", arguments.model)
        recipe = Recipe(pipelines["builtin"], Detector(), str(about.get("telescope") or ""), "builtin")
    if arguments.model == SHIPPED:  # it has no telescope; candidates are named after their image only
        recipe = Recipe(recipe.pipeline, recipe.detector, "", recipe.name)
    own = getattr(arguments, "detector", None)  # of the telescope of a project
    recipe = Recipe(recipe.pipeline, own or recipe.detector, recipe.telescope, recipe.name)
    given = {"gain": arguments.gain, "pixel_scale": arguments.pixel_scale, "saturation": arguments.saturation}
    changed = {key: value for key, value in given.items() if value is not None}
    detector, detect = recipe.detector.model_copy(update=changed), recipe.pipeline.detect
    if arguments.both_signs:
        detect = detect.model_copy(update={"both_signs": True})
    if arguments.finder:
        changes = {"method": "finder", "finder": str(arguments.finder), "search": ["difference"]}
        detect = detect.model_copy(update=changes)
    load_finder(detect)  # an invalid file is refused here once, and not for every image
    return Recipe(recipe.pipeline.model_copy(update={"detect": detect}), detector, recipe.telescope, recipe.name)


def choose_catalogues(arguments: Namespace) -> Catalogues | None:
    """Catalogues of known objects and of stars near candidates (--known, --stars), None if neither is given.

    Raises
    ------
    ConfigError
        A source is neither a service nor a file.
    """
    if not (arguments.known or arguments.stars):
        return None
    known = [name.strip() for name in (arguments.known or "").split("+")]
    for key, names, services in (("known", known, NETWORK_KNOWN), ("stars", [arguments.stars], NETWORK_CATALOGUES)):
        for name in filter(None, names):
            if name.split(":")[0] not in services and not Path(name).is_file():
                raise ConfigError(f"--{key}: {name}: no such file; give a file or one of {', '.join(services)}")
    cache = str(Path(arguments.results, "cache"))
    return Catalogues(known=arguments.known or "", stars=arguments.stars or "", cache=cache)


def choose_hand_on(arguments: Namespace, about: dict[str, Any]) -> HandOn:
    """Alerts and reports for brokers and portals (--alerts, --report)."""
    return HandOn.choose(alerts=arguments.alerts, service=arguments.report, about=arguments.report_about, model=about)


def _stacked(frames: list[str], recipe: Recipe, work: Path) -> Path:
    from otrain_core.sky.reference import reference_files

    path = work / "stack.fits"
    reference_files(
        frames=frames,
        wcs=[None] * len(frames),
        reference=path,
        record=work / "stack.json",
        detector=recipe.detector,
        field="stack",
    )
    return path


def _reference(arguments: Namespace, science: str, stack: str | Path | None, name: str, work: Path) -> str | Path:
    if not arguments.survey:
        if stack is None:
            raise ConfigError("a reference is needed; give --reference, --stack or --survey")
        return stack
    from otrain_core.sky.survey_reference import survey_reference_files

    path = work / f"{name}.survey.fits"
    survey_reference_files(
        science=science,
        reference=path,
        image=name,
        wcs=arguments.wcs,
        hips=arguments.survey,
        cache=Path(arguments.results, "cache"),
    )
    return path


def _tell(arguments: Namespace, text: str) -> None:
    if not arguments.quiet:
        print(text, file=sys.stderr, flush=True)
