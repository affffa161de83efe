"""Input of a job that runs all steps of one or several images in one process (`run.fused`)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otrain_core.plan.pipelines import STEP_OPTIONS, Pipeline
from otrain_core.plan.sections import Section
from otrain_core.plan.telescopes import Detector, Telescope

if TYPE_CHECKING:
    from otrain_core.plan.run import Run


class Frame(Section):
    """One science image and its inputs."""

    image: str
    number: int  # index among the images of its telescope, from 0
    science: str
    reference: str
    wcs: str | None = None
    field: str = ""  # field or reference of the image, see `Inputs.field`


class Chain(Section):
    """The steps of one telescope under one pipeline, and the images of one job."""

    telescope: str
    name: str  # of the pipeline
    pipeline: Pipeline
    detector: Detector
    seed: int
    needs_wcs: bool
    makes_sky: bool  # the job makes simulated images, catalogues and known objects itself, not the rules of sky.smk
    simulated: Telescope | None = None
    catalogue: str | None = None  # star catalogue of a real telescope
    known: str | None = None  # known objects of a real telescope
    psf_catalogue: bool = False  # whether the step psf reads the star catalogue
    detect_catalogue: bool = False  # whether the step detect reads the star catalogue
    knows_objects: bool = False
    keeps_difference: bool = False  # needed to train the detector network
    frames: list[Frame]


def chain_record(run: Run, telescope: str, pipeline: str, image: str) -> dict[str, Any]:
    """The `Chain` of one job as plain values; `image` is the first image of the job (see `Inputs.part`)."""
    inputs = run.inputs
    frames = [
        Frame(
            image=name,
            number=inputs.number(telescope, name),
            science=inputs.science(telescope, name),
            reference=inputs.reference(telescope, name),
            wcs=inputs.wcs(telescope, name),
            field=inputs.field(telescope, name),
        ).model_dump()
        for name in inputs.part(telescope, image)
    ]
    return _without_frames(run, telescope, pipeline) | {"frames": frames}


@functools.cache  # validated once for all images, not for each of thousands of jobs
def _without_frames(run: Run, telescope: str, pipeline: str) -> dict[str, Any]:
    inputs, steps, entry = run.inputs, run.config.pipelines[pipeline], run.telescopes[telescope]
    chain = Chain(
        telescope=telescope,
        name=pipeline,
        pipeline=Pipeline.model_validate({step: steps.options(telescope, step) for step in STEP_OPTIONS}),
        detector=entry.detector,
        seed=run.config.seed,
        needs_wcs=run.needs_wcs(telescope, pipeline),
        makes_sky=run.makes_sky(telescope),
        simulated=inputs.simulated(telescope) if entry.source == "simulated" else None,
        catalogue=inputs.catalogue_file(telescope, "catalogue") if entry.source == "images" else None,
        known=inputs.catalogue_file(telescope, "known") if entry.source == "images" else None,
        psf_catalogue=run.reads_catalogue(telescope, pipeline, "psf"),
        detect_catalogue=run.reads_catalogue(telescope, pipeline, "detect"),
        knows_objects=inputs.knows_objects(telescope),
        keeps_difference=run.config.finder.train,
        frames=[],
    )
    return chain.model_dump(exclude={"frames"})


def chain_inputs(run: Run, telescope: str, pipeline: str, image: str) -> list[str]:
    """Input files of one job: science images, references, and the outputs of the rules in sky.smk."""
    inputs, sky = run.inputs, f"results/{telescope}/sky"
    chain = _without_frames(run, telescope, pipeline)
    files = []
    for name in inputs.part(telescope, image):
        if chain["simulated"] is None or not chain["makes_sky"]:
            files += [inputs.science(telescope, name), inputs.reference(telescope, name)]
        if not chain["makes_sky"]:
            files += [f"{sky}/{name}/truth.csv"] if chain["simulated"] is not None else []
            files += [f"{sky}/{name}/catalogue.csv"] if chain["psf_catalogue"] or chain["detect_catalogue"] else []
            files += [f"{sky}/{name}/known.csv"] if chain["knows_objects"] else []
    return list(dict.fromkeys(files))


def chain_stamps(run: Run, telescope: str, pipeline: str, image: str) -> list[list[int] | None]:
    """Size and modification time of the user's files that one job reads, see `Inputs.stamps`."""
    inputs = run.inputs
    paths = [
        path
        for name in inputs.part(telescope, image)
        for path in (inputs.science(telescope, name), inputs.wcs(telescope, name), inputs.reference(telescope, name))
    ]
    paths += [file for key in ("catalogue", "known") for file in inputs.source_files(telescope, key)]
    return inputs.stamps(paths)
