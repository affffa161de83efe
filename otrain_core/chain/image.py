"""Run all steps of an image in one process, with the functions that the separate rules call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from otrain_core.chain.steps import KEPT, Clock, ImageSteps, Step, held_planes
from otrain_core.io import write_table
from otrain_core.jobs.job import step_of_job
from otrain_core.plan.chain import Chain, Frame
from otrain_core.plan.recipe import Recipe
from otrain_core.results import image_folder
from otrain_core.temporary import temporary_folder

SEP_BUFFERS = (300_000, 1024)  # default buffers of sep (pixels, sub-objects); some steps enlarge them


def image_files(
    *,
    chain: Chain,
    steps: str | Path,
    cache: str | Path,
    log: str | Path | None = None,
    root: str | Path = "results",
    finder: Any = None,
) -> None:
    """Run all steps of some images, one image after the other, and write the cost of each step.

    The job keeps the same files as the separate rules, except the tables of candidates, of the star catalogue and of
    known objects. It also keeps the difference image where the detector network is trained. A bad image stops the
    job or, under ``--keep-going``, gets failure marks in place of its files.

    Parameters
    ----------
    chain : Chain
        Options and images.
    steps : path-like
        Table to write, after all images: image, step, cpu_seconds, peak_mb. The first row, without an image, is the
        start of the process.
    cache : path-like
        Folder of the cached answers of network services.
    log : path-like, optional
        Log of the job.
    root : path-like
        Folder of all results.
    finder : otrain_core.classify.finder.Finder, optional
        Detector network, for ``detect.method: finder``.
    """
    rows = [("", "start", round(time.process_time(), 3), 0.0)]
    for frame in chain.frames:
        clock = Clock()
        with temporary_folder("image") as folder:
            _run_image(chain, frame, Path(root), folder, clock=clock, cache=cache, log=log, finder=finder)
        rows += [(frame.image, step, seconds, clock.peak[step]) for step, seconds in clock.seconds.items()]
    write_table(steps, pd.DataFrame(rows, columns=["image", "step", "cpu_seconds", "peak_mb"]))


def _run_image(
    chain: Chain,
    frame: Frame,
    root: Path,
    temporary: Path,
    *,
    clock: Clock,
    cache: str | Path,
    log: str | Path | None,
    finder: Any = None,
) -> None:
    sky = root / chain.telescope / "sky" / frame.image
    kept = image_folder(root / chain.telescope / chain.name, frame.image)
    difference = kept / "difference.fits" if chain.keeps_difference else None
    for name in (*KEPT, "difference.fits"):  # files of an earlier run must not be mixed with new ones
        (kept / name).unlink(missing_ok=True)

    @contextmanager
    def step(name: str, *outputs: Path) -> Iterator[None]:
        _reset_sep()
        wildcards = {"telescope": chain.telescope, "pipeline": chain.name, "image": frame.image}
        if name in ("simulate", "catalogue"):  # their rules have no pipeline, as they serve all pipelines
            del wildcards["pipeline"]
        with step_of_job(name, outputs, wildcards=wildcards, log_path=log), clock(name):
            yield

    recipe = Recipe(chain.pipeline, chain.detector, telescope=chain.telescope, name=chain.name)
    run = ImageSteps(frame.image, recipe, kept, temporary, step, frame.wcs, finder, held=held_planes())
    science, reference = frame.science, frame.reference
    if chain.makes_sky:
        if chain.simulated is not None:
            science, reference = str(temporary / "science.fits"), str(temporary / "reference.fits")
            _simulate(chain, frame, step, science=science, reference=reference, truth=sky / "truth.csv")
        if chain.psf_catalogue or chain.detect_catalogue or chain.knows_objects:
            _catalogue(chain, frame, step, science=science, truth=sky / "truth.csv", folder=temporary, cache=cache)
    catalogue, known = ((temporary if chain.makes_sky else sky) / name for name in ("catalogue.csv", "known.csv"))
    run.psf(science, catalogue=catalogue if chain.psf_catalogue else None, needs_wcs=chain.needs_wcs)
    run.inject(science, seed=chain.seed)
    run.subtract(run.file("injected.fits"), reference, injected=run.file("injected.csv"), difference=difference)
    run.detect(catalogue=catalogue if chain.detect_catalogue else None, difference=difference)
    run.crossmatch(
        known=known if chain.knows_objects else None, sky_truth=sky / "truth.csv" if chain.simulated else None
    )
    run.cutouts(field=frame.field, difference=difference)


def _reset_sep() -> None:
    """Restore the default buffers of sep: their size affects the detections in a crowded image."""
    import sep

    sep.set_extract_pixstack(SEP_BUFFERS[0])
    sep.set_sub_object_limit(SEP_BUFFERS[1])


def _simulate(chain: Chain, frame: Frame, step: Step, *, science: str, reference: str, truth: Path) -> None:
    from otrain_core.sky.simulate import simulate_files

    assert chain.simulated is not None
    with step("simulate", science, reference, truth):
        simulate_files(
            science=science,
            reference=reference,
            truth=truth,
            telescope=chain.simulated,
            image=frame.image,
            index=frame.number,
            seed=chain.seed,
        )


def _catalogue(
    chain: Chain, frame: Frame, step: Step, *, science: str, truth: Path, folder: Path, cache: str | Path
) -> None:
    """Write the star catalogue and the known objects, as the rules catalogue and simulated_catalogue do."""
    catalogue, known = folder / "catalogue.csv", folder / "known.csv"
    with step("catalogue", catalogue, known):
        if chain.simulated is not None and chain.simulated.sky is not None:
            from otrain_core.sky.simulated_catalogue import simulated_catalogue_files

            simulated_catalogue_files(
                science=science,
                truth=truth,
                catalogue=catalogue,
                known=known,
                telescope=chain.telescope,
                image=frame.image,
                beta=chain.simulated.sky.psf_beta,
                seed=chain.seed,
            )
            return
        from otrain_core.sky.catalogue import catalogue_files

        catalogue_files(
            science=science,
            catalogue=catalogue,
            known=known,
            image=frame.image,
            detector=chain.detector,
            wcs=frame.wcs,
            source=chain.catalogue,
            known_source=chain.known,
            cache=cache,
        )
