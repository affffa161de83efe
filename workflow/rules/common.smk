"""Configuration, sheets and the few functions that rules share."""

import functools
import os
import re
import sys

# The library of this clone, also when it is not installed.
sys.path.insert(0, str(Path(workflow.basedir).parent))
os.environ |= {"PYTHONPATH": os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])}

from otrain_core.classify.shipped import shipped_digest
from otrain_core.errors import OtrainError
from otrain_core.extensions import file_of
from otrain_core.jobs.digest import code_digest
from otrain_core.jobs.job import KEEP_GOING
from otrain_core.plan.sections import NAME_PATTERN, read_yaml
from otrain_core.plan.run import Run
from otrain_core.jobs.resume import explain_lock
from otrain_core.jobs.slurm import die_with_parent
from snakemake.exceptions import WorkflowError
from snakemake.shell import shell

explain_lock()
shell.prefix("set -euo pipefail; exec ")  # no shell stays between Snakemake and a step
if not workflow.is_main_process:
    die_with_parent()

try:
    for path in workflow.configfiles:  # of a key that stands twice Snakemake takes the last
        if Path(path).is_file():
            read_yaml(path)
    RUN = Run.from_config(config, root=Path(workflow.basedir).parent)
except OtrainError as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    telescope=NAME_PATTERN,
    pipeline=NAME_PATTERN,
    image=NAME_PATTERN,
    field=NAME_PATTERN,
    experiment=NAME_PATTERN,
    seed=r"\d+",
    sweep="|".join(map(re.escape, RUN.config.studies.sweeps)) or "(?!)",


digest_once = functools.cache(
    code_digest
)  # thousands of jobs ask; and a run has one code, whatever is edited meanwhile


def code_of(script):
    """Digest of the code of a step, as a parameter of its rule."""
    return lambda wildcards: digest_once(script)


options_once = functools.cache(RUN.options)  # all images of a telescope share them


def step(name):
    """Options of one step of the pipeline, as a parameter of its rule."""
    return lambda wildcards: options_once(wildcards.telescope, wildcards.pipeline, name)


def detector(wildcards):
    """Detector of a telescope: the rest of its entry changes no real image."""
    return RUN.telescopes[wildcards.telescope].detector.model_dump()


def if_exists(path):
    """An input only where it exists: the job itself tells of a missing file, image by image.

    The path may name an extension, which is no part of the file's name.
    """
    file = str(file_of(path)) if path else ""
    return file if file and (file.startswith("results/") or Path(file).exists()) else []


NETWORK_CACHE = "results/cache"  # answers of network services; kept when results of a run are made anew


def is_simulated(telescope):
    return RUN.telescopes[telescope].source == "simulated"


def telescopes_where(condition):
    """Wildcard constraint: the telescopes of the run for which a condition holds."""
    names = [re.escape(name) for name in [*RUN.used_telescopes(), *RUN.drawn] if condition(name)]
    return "|".join(names) or "(?!)"


def catalogue_of(column):
    """Source of the star catalogue or of the known objects of a telescope, as a parameter."""
    return lambda wildcards: RUN.inputs.catalogue_file(wildcards.telescope, column)


def science_path(wildcards):
    return RUN.inputs.science(wildcards.telescope, wildcards.image)


def reference_path(wildcards):
    return RUN.inputs.reference(wildcards.telescope, wildcards.image)


def science_stamps(wildcards):
    """Size and time of a science image and its WCS: a file with an older date in place of another is a change too."""
    return RUN.inputs.stamps([science_path(wildcards), wcs_path(wildcards)])


def catalogue_stamps(wildcards):
    sources = [RUN.inputs.source_files(wildcards.telescope, key) for key in ("catalogue", "known")]
    return science_stamps(wildcards) + RUN.inputs.stamps(sum(sources, []))


def wcs_path(wildcards):
    return RUN.inputs.wcs(wildcards.telescope, wildcards.image)


def sky_truth(wildcards):
    if RUN.telescopes[wildcards.telescope].source != "simulated":
        return []
    return f"results/{wildcards.telescope}/sky/{wildcards.image}/truth.csv"


def catalogue_for(step):
    """The star catalogue, where a step of the pipeline needs one; psf checks the WCS with one that is made anyway."""

    def path(wildcards):
        if not RUN.reads_catalogue(wildcards.telescope, wildcards.pipeline, step):
            return []
        return f"results/{wildcards.telescope}/sky/{wildcards.image}/catalogue.csv"

    return path


def known_objects(wildcards):
    if not RUN.inputs.knows_objects(wildcards.telescope):
        return []
    return f"results/{wildcards.telescope}/sky/{wildcards.image}/known.csv"


def stacks(wildcards):
    """Cutouts of every image of a telescope."""
    folder = f"results/{wildcards.telescope}/{wildcards.pipeline}/images"
    return [f"{folder}/{image}/cutouts.npz" for image in RUN.inputs.images(wildcards.telescope)]


def finished_images(wildcards):
    """What the cube waits for: the cutouts or, with fused images, the records of the jobs that made them."""
    return images_files(wildcards.telescope, wildcards.pipeline)


def images_files(telescope, pipeline):
    """See `finished_images`."""
    folder = f"results/{telescope}/{pipeline}/images"
    if not RUN.config.run.fused:
        return [f"{folder}/{image}/cutouts.npz" for image in RUN.inputs.images(telescope)]
    return [f"{folder}/{first}/steps.csv" for first in RUN.inputs.parts(telescope)]


def finder_file(wildcards):
    """The detector network of detect.method: finder."""
    return options_once(wildcards.telescope, wildcards.pipeline, "detect")["finder"] or []


def kept_for_finder(path):
    """The planes of a difference: what the detector network is trained on, temporary where none is."""
    return path if RUN.config.finder.train else temp(path)


def drawn_images():
    """Telescope and cutouts of every image of the telescopes that are drawn at random."""
    return [
        (name, f"results/{name}/{item.pipeline}/images/{image}/cutouts.npz")
        for name, item in RUN.drawn.items()
        for image in RUN.inputs.images(name)
    ]


def trainings(*names):
    """Files of every training of the run."""
    return [f"{folder}/{name}" for folder in RUN.trainings() for name in names]


def with_studies(folders):
    """Folders of trainings, and those of the sweeps, each once."""
    swept = [f"results/{row['folder']}" for sweep in RUN.config.studies.sweeps for row in RUN.studies.sweep(sweep)]
    return list(dict.fromkeys(folders + swept))


def tuned_from(wildcards):
    """Of an experiment that starts from the shipped model: how it is fine-tuned, and which model that is."""
    if RUN.experiments[wildcards.experiment].start is None:
        return None
    return {"options": RUN.config.finetune.model_dump(), "shipped": shipped_digest()}


def pool_members(wildcards):
    return RUN.studies.pool_members(wildcards.telescope, wildcards.pipeline)


def finetune_source(wildcards):
    return RUN.studies.finetune_source(wildcards.telescope, wildcards.pipeline)


@functools.cache
def archive_jobs():
    """Images of each job of the archive, looked for once."""
    from otrain_core.plan import archive

    try:
        return archive.archive_jobs(RUN.config.archive)
    except OtrainError as error:
        raise WorkflowError(str(error)) from None


def archive_stamps(wildcards):
    """Size and time of the images of a job and of what they are searched with."""
    images = archive_jobs()[wildcards.job]
    paths = [image[key] for image in images for key in ("path", "reference", "wcs")]
    return RUN.inputs.stamps([*paths, RUN.config.archive.model, RUN.config.archive.references])


def source_file(name):
    """A file of what fine-tuning starts from; nothing for the shipped model."""

    def path(wildcards):
        if RUN.config.studies.finetune_from == "universal":
            return []
        return f"results/{finetune_source(wildcards)}/{name}".format(**dict(wildcards.items()))

    return path


def check_and_remember():
    """Refuse to start where files could get a second writer or the cluster does not fit; leave a note for `make resume`."""
    from otrain_core.jobs.resume import start

    try:
        start(workflow)
    except OtrainError as error:
        raise WorkflowError(str(error)) from None


def show_progress():
    """One display of a run on this machine, in place of Snakemake's lines."""
    from otrain_core.jobs.display import attach

    attach(workflow)


def choose_what_a_bad_image_does():
    """Under --keep-going a bad image is left out of its cube; otherwise it stops the run, if it can before any work.

    Jobs read the choice from their environment, so that it does not count as a changed parameter.
    """
    for warning in sum(map(RUN.inputs.warnings, RUN.used_telescopes()), []):
        print(f"warning: {warning}", file=sys.stderr)
    if workflow.execution_settings.keep_going:
        os.environ |= {KEEP_GOING: "1"}
        return
    try:
        RUN.inputs.check_files()
    except OtrainError as error:
        raise WorkflowError(str(error)) from None


def tell_how_it_ended():
    """When a run ends early: a report of what there is, and what helps to go on; never a second error."""
    from otrain_core.jobs.resume import ended

    try:
        page = report_unfinished()
        print(f"The run ended early. What there is, and what failed and why: {page}", file=sys.stderr)
    except Exception as error:  # whatever ended the run (a full disk) may stop the report too
        print(f"The run ended early, and no report of what there is could be written: {error}", file=sys.stderr)
    print(ended(), file=sys.stderr)


def report_rows():
    """Telescopes of the run, with what the report must warn of."""
    return {
        name: RUN.telescopes[name].model_dump() | {"warnings": RUN.inputs.warnings(name)}
        for name in RUN.used_telescopes()
    }


def report_unfinished():
    """Report of what there is, beside the real one; its file."""
    from otrain_core.evaluation.summary import summary_files
    from otrain_core.report.report import report_files
    from otrain_core.results import TABLES

    folder = "results/unfinished"
    tables = {name: f"{folder}/{name}.csv" for name in TABLES}
    summary_files(
        cubes=RUN.config.run.cubes,
        images={telescope: RUN.inputs.images(telescope) for telescope in RUN.used_telescopes()},
        runs=RUN.trainings(),
        tables=tables,
        options=RUN.config.evaluate,
        seed=RUN.config.seed,
    )
    report_files(
        page=f"{folder}/report.html",
        tables=tables,
        cubes=RUN.config.run.cubes,
        runs=RUN.trainings(),
        config=RUN.config,
        rows=report_rows(),
    )
    return f"{folder}/report.html"
