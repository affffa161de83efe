"""The steps of one image, from the frame to its cutouts; each step calls the function of its rule."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from otrain_core.candidates.crossmatch import crossmatch_files
from otrain_core.candidates.cutouts import cutouts_files
from otrain_core.candidates.detect import detect_files
from otrain_core.images.frames import Held, Image
from otrain_core.images.prepare import prepare_files
from otrain_core.images.subtract import subtract_files
from otrain_core.plan.recipe import Recipe
from otrain_core.stars.inject import inject_files
from otrain_core.stars.psf import psf_files
from otrain_core.stars.removed_stars import remove_stars

KEPT = ("psf.fits", "psf.json", "injected.csv", "subtract.json", "labelled.csv", "crossmatch.json", "cutouts.npz")


def held_planes() -> dict[str, Held]:
    """Image planes that stay in memory when all steps run in one process."""
    return {name: Held() for name in ("prepared.fits", "difference.fits")}


# Given the name of a step and the files that it writes, returns the context in which the step runs.
Step = Callable[..., AbstractContextManager[None]]


class Clock:
    """CPU time and peak memory of the steps of a process.

    Attributes
    ----------
    seconds : dict of str to float
        CPU time of each step [s].
    peak : dict of str to float
        Peak memory of the process up to the end of each step [MB].
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
    """The steps of one image and their files.

    Parameters
    ----------
    image : str
        Name of the image.
    recipe : Recipe
        Options of the steps.
    kept, temporary : path-like
        Folder of the files that are kept, and folder of all other files.
    step : callable
        Given the name of a step and its files, returns the context in which the step runs, for example a `Clock`.
    wcs : path-like, optional
        FITS header with the WCS, for an image without one.
    finder : otrain_core.classify.finder.Finder, optional
        Detector network, for ``detect.method: finder``.
    held : dict, optional
        Image planes that stay in memory instead of a temporary file, by name of the file.
    """

    image: str
    recipe: Recipe
    kept: Path
    temporary: Path
    step: Step
    wcs: str | Path | None = None
    finder: Any = None
    held: Mapping[str, Held] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        """Path of a file, in the folder of the files that are kept or in the temporary one."""
        return (self.kept if name in KEPT else self.temporary) / name

    def planes(self, name: str) -> Path | Held:
        """The planes of a step in memory, or else the path of their file or of the failure mark of the step."""
        path = self.file(name)
        return path if path.is_file() else self.held.get(name, path)

    def psf(self, science: str | Path | Image, *, catalogue: str | Path | None, needs_wcs: bool = False) -> None:
        """Run the step psf."""
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
        """Run the step inject."""
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
        self,
        frame: str | Path | Image,
        reference: str | Path,
        *,
        injected: Path | None = None,
        difference: Path | None = None,
    ) -> None:
        """Run the steps prepare and subtract."""
        with self.step("prepare", self.file("prepared.fits")):
            prepare_files(
                injected=frame,
                psf_record=self.file("psf.json"),
                prepared=self.planes("prepared.fits"),
                image=self.image,
                detector=self.recipe.detector,
                options=self.recipe.pipeline.prepare,
            )
        with self.step("subtract", difference or self.file("difference.fits"), self.file("subtract.json")):
            subtract_files(
                prepared=self.planes("prepared.fits"),
                psf_record=self.file("psf.json"),
                reference=reference,
                difference=difference or self.planes("difference.fits"),
                record=self.file("subtract.json"),
                image=self.image,
                detector=self.recipe.detector,
                wcs=self.wcs,
                injected=injected,
                options=self.recipe.pipeline.subtract,
                remove_stars=partial(remove_stars, options=self.recipe.pipeline.psf) if injected else None,
            )
        if "prepared.fits" in self.held:
            self.held["prepared.fits"].planes = {}  # no later step needs these planes; free the memory

    def detect(self, *, catalogue: str | Path | None, difference: Path | None = None) -> None:
        """Run the step detect."""
        with self.step("detect", self.file("candidates.csv")):
            detect_files(
                difference=difference or self.planes("difference.fits"),
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
                finder=self.finder,
            )

    def crossmatch(self, *, known: str | Path | None, sky_truth: str | Path | None) -> None:
        """Run the step crossmatch."""
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
        """Run the step cutouts."""
        with self.step("cutouts", self.file("cutouts.npz")):
            cutouts_files(
                labelled=self.file("labelled.csv"),
                difference=difference or self.planes("difference.fits"),
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
