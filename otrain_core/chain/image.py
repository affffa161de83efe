"""All steps of one image in one process: the functions of the single rules, one after the other."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from otrain_core.candidates.crossmatch import crossmatch_files
from otrain_core.candidates.cutouts import cutouts_files
from otrain_core.candidates.detect import detect_files
from otrain_core.images.prepare import prepare_files
from otrain_core.images.subtract import subtract_files
from otrain_core.io import write_table
from otrain_core.jobs.job import step_of_job
from otrain_core.plan.chain import Chain, Frame
from otrain_core.plan.recipe import Recipe
from otrain_core.results import image_folder
from otrain_core.stars.inject import inject_files
from otrain_core.stars.psf import psf_files
from otrain_core.stars.real_stars import remove_stars

KEPT = ("psf.fits", "psf.json", "injected.csv", "subtract.json", "labelled.csv", "crossmatch.json", "cutouts.npz")
SEP_BUFFERS = (300_000, 1024)  # pixels and sub-objects, as sep begins: a step sets larger ones for its process

# How a step runs: given its name and the files it writes, the context in which it does.
Step = Callable[..., AbstractContextManager[None]]


class Clock:
    """CPU time and peak memory of the steps of a process.

    Attributes
    ----------
    seconds : dict of str to float
        CPU seconds of every step.
    peak : dict of str to float
        Largest memory of the process until the step ended [MB].
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str, *outputs: str | Path) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[step] = round(time.process_time() - start, 3)
        unit = 1e6 if sys.platform == "darwin" else 1e3
        self.peak[step] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


@dataclass(frozen=True)
class ImageSteps:
    """The steps of one image, and where their files are.

    Parameters
    ----------
    image : str
        Name of the image.
    recipe : Recipe
        Options of the steps.
    kept, temporary : path-like
        Folder of the files that are kept, and of the others.
    step : callable
        Given the name of a step and its files, the context in which it runs (a `Clock`, for example).
    wcs : path-like, optional
        FITS header with the WCS, for an image that has none.
    """

    image: str
    recipe: Recipe
    kept: Path
    temporary: Path
    step: Step
    wcs: str | Path | None = None

    def file(self, name: str) -> Path:
        return (self.kept if name in KEPT else self.temporary) / name

    def psf(self, science: str | Path, *, catalogue: str | Path | None, needs_wcs: bool = False) -> None:
        with self.step("psf", self.file("psf.fits"), self.file("psf.json")):
            psf_files(
                science=science,
                psf=self.file("psf.fits"),
                record=self.file("psf.json"),
                image=self.image,
                detector=self.recipe.detector,
                wcs=self.wcs,
                catalogue=catalogue,
                needs_wcs=needs_wcs,
                cutout_size=self.recipe.pipeline.cutouts.size,
                options=self.recipe.pipeline.psf,
            )

    def inject(self, science: str | Path, *, seed: int) -> None:
        with self.step("inject", self.file("injected.fits"), self.file("injected.csv")):
            inject_files(
                science=science,
                psf=self.file("psf.fits"),
                record=self.file("psf.json"),
                injected=self.file("injected.fits"),
                truth=self.file("injected.csv"),
                telescope=self.recipe.telescope,
                image=self.image,
                detector=self.recipe.detector,
                wcs=self.wcs,
                seed=seed,
                options=self.recipe.pipeline.inject,
            )

    def subtract(
        self, frame: str | Path, reference: str | Path, *, injected: Path | None = None, difference: Path | None = None
    ) -> None:
        """The steps prepare and subtract."""
        with self.step("prepare", self.file("prepared.fits")):
            prepare_files(
                injected=frame,
                psf_record=self.file("psf.json"),
                prepared=self.file("prepared.fits"),
                image=self.image,
                detector=self.recipe.detector,
                wcs=self.wcs,
                options=self.recipe.pipeline.prepare,
            )
        difference = difference or self.file("difference.fits")
        with self.step("subtract", difference, self.file("subtract.json")):
            subtract_files(
                prepared=self.file("prepared.fits"),
                psf_record=self.file("psf.json"),
                reference=reference,
                difference=difference,
                record=self.file("subtract.json"),
                image=self.image,
                detector=self.recipe.detector,
                wcs=self.wcs,
                injected=injected,
                options=self.recipe.pipeline.subtract,
                remove_stars=partial(remove_stars, options=self.recipe.pipeline.psf) if injected else None,
            )

    def detect(self, *, catalogue: str | Path | None, difference: Path | None = None) -> None:
        with self.step("detect", self.file("candidates.csv")):
            detect_files(
                difference=difference or self.file("difference.fits"),
                psf=self.file("psf.fits"),
                psf_record=self.file("psf.json"),
                subtract_record=self.file("subtract.json"),
                catalogue=catalogue,
                candidates=self.file("candidates.csv"),
                image=self.image,
                telescope=self.recipe.telescope,
                size=self.recipe.pipeline.cutouts.size,
                options=self.recipe.pipeline.detect,
                wcs=self.wcs,
            )

    def crossmatch(self, *, known: str | Path | None, sky_truth: str | Path | None) -> None:
        with self.step("crossmatch", self.file("labelled.csv"), self.file("crossmatch.json")):
            crossmatch_files(
                candidates=self.file("candidates.csv"),
                injected=self.file("injected.csv"),
                psf_record=self.file("psf.json"),
                subtract_record=self.file("subtract.json"),
                known=known,
                sky_truth=sky_truth,
                labelled=self.file("labelled.csv"),
                record=self.file("crossmatch.json"),
                image=self.image,
                options=self.recipe.pipeline.crossmatch,
            )

    def cutouts(self, *, field: str = "", difference: Path | None = None) -> None:
        with self.step("cutouts", self.file("cutouts.npz")):
            cutouts_files(
                labelled=self.file("labelled.csv"),
                difference=difference or self.file("difference.fits"),
                psf=self.file("psf.fits"),
                psf_record=self.file("psf.json"),
                subtract_record=self.file("subtract.json"),
                cutouts=self.file("cutouts.npz"),
                telescope=self.recipe.telescope,
                pipeline=self.recipe.name,
                image=self.image,
                field=field,
                options=self.recipe.pipeline.cutouts,
            )


def image_files(
    *, chain: Chain, steps: str | Path, cache: str | Path, log: str | Path | None = None, root: str | Path = "results"
) -> None:
    """Run all steps of some images, one image after the other, and write what each step took.

    Kept are the files that the single rules keep, but for the tables of candidates, of the star catalogue and of known
    objects, which these can be made from. A bad image ends the job or, under ``--keep-going``, leaves failure marks.

    Parameters
    ----------
    chain : Chain
        Options and images.
    steps : path-like
        Table written last: image, step, cpu_seconds, peak_mb. The first row, without image, is the start of the
        process.
    cache : path-like
        Folder where answers of the network are kept.
    log : path-like, optional
        Log of the job.
    root : path-like
        Folder of all results.
    """
    rows = [("", "start", round(time.process_time(), 3), 0.0)]
    for frame in chain.frames:
        clock = Clock()
        with tempfile.TemporaryDirectory(prefix="otrain-image-") as folder:
            _run_image(chain, frame, Path(root), Path(folder), clock=clock, cache=cache, log=log)
        rows += [(frame.image, step, seconds, clock.peak[step]) for step, seconds in clock.seconds.items()]
    write_table(steps, pd.DataFrame(rows, columns=["image", "step", "cpu_seconds", "peak_mb"]))


def _run_image(
    chain: Chain, frame: Frame, root: Path, temporary: Path, *, clock: Clock, cache: str | Path, log: str | Path | None
) -> None:
    sky = root / chain.telescope / "sky" / frame.image
    kept = image_folder(root / chain.telescope / chain.name, frame.image)
    for name in KEPT:  # of an earlier run: nothing old is to stand beside what is new
        (kept / name).unlink(missing_ok=True)

    @contextmanager
    def step(name: str, *outputs: Path) -> Iterator[None]:
        _reset_sep()
        wildcards = {"telescope": chain.telescope, "pipeline": chain.name, "image": frame.image}
        if name in ("simulate", "catalogue"):  # as their rules, which serve all pipelines
            del wildcards["pipeline"]
        with step_of_job(name, outputs, wildcards=wildcards, log_path=log), clock(name):
            yield

    recipe = Recipe(chain.pipeline, chain.detector, telescope=chain.telescope, name=chain.name)
    run = ImageSteps(frame.image, recipe, kept, temporary, step, frame.wcs)
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
    run.subtract(run.file("injected.fits"), reference, injected=run.file("injected.csv"))
    run.detect(catalogue=catalogue if chain.detect_catalogue else None)
    run.crossmatch(
        known=known if chain.knows_objects else None, sky_truth=sky / "truth.csv" if chain.simulated else None
    )
    run.cutouts(field=frame.field)


def _reset_sep() -> None:
    """Buffers as in a new process: where they overflow decides what is found in a crowded image."""
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
    """The star catalogue and the known objects, as the rules catalogue and simulated_catalogue make them."""
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
