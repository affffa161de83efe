"""The parser of the command: its verbs and their arguments."""

from __future__ import annotations

import argparse

from otrain_core import __version__
from otrain_core.cli.arguments import (
    SHIPPED,
    add_candidates,
    add_header_values,
    add_recipe,
    angle,
    chance,
    count,
    number,
    port,
    positive,
    probability,
    seed,
    share,
    threads,
)

LABELS = "labels.sqlite"  # outside the results folder, so that the answers survive when that is deleted
EPILOG = (
    "exit status: 0 success; 1 refused or not fit for use (see standard error); 2 wrong usage; "
    "3 (monitor) unlike the training set; 4 (monitor) not enough data to tell"
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="otrain",
        description="Real/bogus classification of the candidates of any optical telescope.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"otrain {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("--quiet", action="store_true", help="print no progress on standard error")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, summary: str, *, details: str = "", of=verbs, function: str = "") -> argparse.ArgumentParser:
        made = of.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {details}".strip(),
            parents=[common],
            epilog=EPILOG,
        )
        made.set_defaults(function=function or f"verbs:{name}")
        return made

    _add_project_verbs(verb)
    _add_cutout_verbs(verb)
    _add_training_verbs(verb)
    _add_classify(verb)
    _add_search(verb)
    _add_models(verb)
    _add_label(verb)
    check = verb(
        "check",
        "check whether images, folders of cutouts or cubes are fit for use",
        details="Checks headers, sizes, missing pixels, seeing and counts. The exit status is 1 if any of them is not fit.",
    )
    check.add_argument("paths", nargs="+", metavar="PATH", help="FITS image, folder of cutouts, or cube (.npz)")
    add_header_values(check)
    return parser


def _add_project_verbs(verb) -> None:
    init = verb(
        "init",
        "set up a project for a folder of FITS files: configuration, telescopes and sheet of images",
        details="Reads the headers and some of the pixels, and prints a table of the values that were found, assumed or not"
        " found. Existing entries are never overwritten; run it again to add new files of the folder.",
        function="project:init",
    )
    init.add_argument("folder", help="folder of FITS files, including its subfolders")
    init.add_argument("-o", "--output", metavar="PROJECT", help="folder of the project (default: FOLDER-otrain)")
    init.add_argument("--threads", type=threads, default=2, help="number of CPU threads (default: 2)")
    example = verb(
        "example",
        "write a small set of simulated FITS files, like those of a telescope",
        details="Writes ten frames of one night, six of an earlier night, darks and flats. The headers state that they are"
        " simulated.",
        function="project:example",
    )
    example.add_argument("folder", help="folder to write to, new or empty")
    example.add_argument("--frames", type=count, default=10, help="number of frames of the later night (default: 10)")
    example.add_argument("--wcs", action="store_true", help="write a WCS to the headers")
    example.add_argument("--seed", type=seed, default=1, help="random seed (default: 1)")
    solve = verb(
        "solve",
        "find the WCS of frames without one, with solve-field of astrometry.net",
        details="Writes a header file NAME.wcs for each frame, and skips frames with a WCS. The exit status is 1 if a frame"
        " is not solved.",
        function="project:solve",
    )
    solve.add_argument("paths", nargs="+", metavar="PATH", help="FITS file, or folder of FITS files")
    solve.add_argument(
        "-o", "--output", metavar="FOLDER", help="folder to write to (default: the folder of each frame)"
    )
    solve.add_argument("--scale", type=positive, help="pixel scale; replaces that of the headers [arcsec/px]")
    solve.add_argument("--seconds", type=count, default=60, help="maximum CPU time per frame [s] (default: 60)")
    solve.add_argument("--threads", type=threads, default=2, help="number of frames solved in parallel (default: 2)")
    plan = verb(
        "plan",
        "estimate the cost of a run and what its data will allow, before it is started",
        details="Estimates the number of jobs, time on this machine, disk space, and number of cutouts of each class, and"
        " whether these are enough for an evaluation.",
        function="project:plan",
    )
    _add_configurations(plan)
    plan.add_argument("--results", default="results", help="folder of earlier runs (default: results)")
    run = verb(
        "run",
        "run the workflow on a configuration: train, evaluate, register and report",
        details="Runs Snakemake with the same options as make demo. Needs a clone of the project.",
        function="project:run",
    )
    _add_configurations(run)
    run.add_argument("--cores", type=threads, help="number of CPU cores (default: all)")
    run.add_argument("--keep-going", action="store_true", help="leave out bad images and list them in the report")
    run.add_argument(
        "--target", action="append", default=[], metavar="FILE", help="make only this file (can be given several times)"
    )


def _add_configurations(made: argparse.ArgumentParser) -> None:
    made.add_argument("config", nargs="+", help="configuration (YAML); later files override earlier ones")


def _add_cutout_verbs(verb) -> None:
    convert = verb(
        "convert",
        "make a cube from folders True/ and False/ of FITS cutouts",
        details="Reads single images and multi-extension files (DIFF, IMAGE, TEMPLATE, MASK, PSF).",
    )
    convert.add_argument("folder", help="folder with True/ and False/ (or true/ and false/)")
    convert.add_argument("-o", "--output", required=True, metavar="CUBE", help="cube to write (.npz)")
    convert.add_argument(
        "--size", type=count, metavar="PX", help="crop the cutouts to this side length around the candidate"
    )
    convert.add_argument(
        "--true-fraction",
        type=share,
        default=0.5,
        metavar="SHARE",
        help="fraction of True in the cube, or 'keep' to keep all cutouts (default: 0.5)",
    )
    convert.add_argument(
        "--channels",
        default="difference",
        help="comma-separated channels, or 'all' for those that every file has (default: difference)",
    )
    convert.add_argument("--telescope", default="", help="name of the telescope, stored in the cube")
    convert.add_argument("--seed", type=seed, default=1, help="random seed for the selection of cutouts (default: 1)")
    export = verb("export", "write a cube as True/ and False/ folders of FITS cutouts")
    export.add_argument("cube", help="cube (.npz), of this version or of the original O'TRAIN")
    export.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder to write to")


def _add_training_verbs(verb) -> None:
    train = verb(
        "train",
        "split a cube, train a network on it, evaluate it and write it as ONNX",
        details="Runs the same steps as the workflow. Needs TensorFlow.",
    )
    train.add_argument("cube", help="cube (.npz); with --labels also a folder of the cutouts of a night")
    train.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder of the training")
    train.add_argument("--labels", metavar="SHEET", help="train only on the cutouts that have a label in this sheet")
    train.add_argument(
        "--experiment", help="named training set-up (default: otrain2, or fine-tuned with --from universal)"
    )
    train.add_argument(
        "--from",
        dest="start",
        choices=[SHIPPED],
        help="fine-tune the shipped model instead of training from scratch; it changes only as far as the labels show a gain",
    )
    train.add_argument("--epochs", type=count, help="maximum number of epochs (default: as in the experiment)")
    train.add_argument("--inputs", help="comma-separated input channels (default: as in the experiment)")
    train.add_argument(
        "--seed",
        type=seed,
        default=1,
        help="random seed for the split, the weights and the order of cutouts (default: 1)",
    )
    train.add_argument("--threads", type=threads, help="number of CPU threads")
    diagnose = verb("diagnose", "print the scores of a training and draw its figures")
    diagnose.add_argument("folder", help="folder of the training")
    diagnose.add_argument(
        "-o", "--output", metavar="FOLDER", help="folder for the figures (PNG; default: draw no figures)"
    )
    explain = verb("explain", "draw Grad-CAM maps of the decisions of a trained network")
    explain.add_argument("folder", help="folder of the training")
    explain.add_argument("--cube", required=True, help="cube (.npz) that the network was trained on")
    explain.add_argument(
        "-o", "--output", metavar="FOLDER", help="folder to write to (default: the folder of the training)"
    )
    explain.add_argument("--seed", type=seed, default=1, help="random seed for the selection of cutouts (default: 1)")


def _add_classify(verb) -> None:
    classify = verb(
        "classify",
        "score candidates: cutouts, folders, a cube, or a difference image",
        function="classify:classify",
        details="Writes a CSV table with the probability, the decision, whether it is undecided, and the reason if a"
        " candidate is unlike the training set.",
    )
    add_candidates(classify)
    classify.add_argument("-o", "--output", metavar="CSV", help="table to write (default: standard output)")
    classify.add_argument(
        "--gallery",
        metavar="PNG",
        help="draw the candidates with the lowest and highest probabilities (needs matplotlib)",
    )
    monitor = verb(
        "monitor",
        "compare a night's candidates with the training set, and advise whether to retrain",
        function="monitor:monitor",
        details="Compares the distributions of seeing, PSF, noise, background, missing pixels and scores. The candidates of"
        " one image are not independent, as they share its seeing, so that images are counted and not candidates. The exit"
        " status is 3 if the night is unlike the training set.",
    )
    add_candidates(monitor, more=", or a table written by otrain classify (.csv)")
    monitor.add_argument("-o", "--output", metavar="PNG", help="figure to write (PNG or PDF; needs matplotlib)")
    monitor.add_argument(
        "--false-alarms",
        type=chance,
        default=0.01,
        metavar="SHARE",
        help="accepted rate of false alarms, as a fraction of the nights (default: 0.01)",
    )


def _add_search(verb) -> None:
    search = verb(
        "search",
        "find and score the candidates in new images",
        function="search:search",
        details="Processes each image with the steps with which the training set of the model was made, without injection."
        " Writes a table of candidates (ECSV and FITS), a record (JSON) and a picture of the best candidates per image.",
    )
    search.add_argument(
        "science",
        nargs="+",
        metavar="SCIENCE",
        help="science image (FITS), or the configuration of a project (otrain init) to search all its images",
    )
    origin = search.add_mutually_exclusive_group()
    origin.add_argument("--reference", metavar="FITS", help="reference image")
    origin.add_argument("--stack", nargs="+", metavar="FITS", help="frames to stack into the reference")
    origin.add_argument(
        "--survey", metavar="HIPS", help="survey to fetch the reference from (network), e.g. CDS/P/PanSTARRS/DR1/r"
    )
    search.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder to write to")
    search.add_argument("--wcs", metavar="FITS", help="header file with the WCS, for an image without one")
    search.add_argument("--catalogue", metavar="CSV", help="star catalogue for pipelines that need one (ra, dec, mag)")
    search.add_argument("--keep-difference", action="store_true", help="keep the difference images")
    search.add_argument(
        "--gallery",
        type=number,
        default=24,
        metavar="N",
        help="number of candidates in the picture (default: 24; 0: no picture)",
    )
    search.add_argument(
        "--inject",
        type=number,
        default=0,
        metavar="N",
        help="inject N sources into a copy of each image, and measure the recovered fraction as a function of magnitude",
    )
    search.add_argument(
        "--inject-seed", type=number, default=1, metavar="SEED", help="random seed of the injected sources (default: 1)"
    )
    add_recipe(search)
    night = verb(
        "night",
        "search the images of a folder as they arrive, each once, and write a page per night",
        function="night:night",
        details="Stop it with Ctrl-C. A ledger records the searched images, so that you can stop and restart it at any time."
        " A night lasts from noon to noon, in local mean time if the longitude of the telescope is known (OBSGEO-L,"
        " SITELONG, --longitude), otherwise in UTC.",
    )
    night.add_argument("folder", help="folder to which images are added, including its subfolders")
    night.add_argument(
        "--references",
        required=True,
        metavar="MAP",
        help="one reference (FITS) for all images, a folder of references (selected by their WCS), or a CSV file (pattern,"
        " reference)",
    )
    night.add_argument(
        "-o", "--output", required=True, metavar="NIGHTS", help="folder for all nights, with an index.html"
    )
    night.add_argument("--once", action="store_true", help="search the images that are there, then stop")
    night.add_argument(
        "--longitude",
        type=angle,
        metavar="DEG",
        help="longitude of the telescope, if the headers lack it [deg, east positive]",
    )
    add_recipe(night)


def _add_models(verb) -> None:
    models = verb(
        "models",
        "list registered models, choose the champion, import trainings and write ONNX files",
        details="The models are registered on the server given by MLFLOW_TRACKING_URI or, without one, in mlflow.db of the"
        " results folder.",
    )
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        made = verb(name, summary, of=actions, function=f"verbs:models_{name.replace('-', '_')}")
        made.add_argument("--results", default="results", help="results folder (default: results)")
        return made

    action("list", "list the shipped model with its scores, and all versions of all registered models")
    promote = action("promote", "make a version the champion; later imports do not change this choice")
    promote.add_argument("model", help="name of the telescope")
    promote.add_argument("version", type=int, help="number of the version")
    for name, summary in (
        ("roll-back", "make the previous champion the champion again"),
        ("automatic", "let imports choose the champion again"),
    ):
        action(name, summary).add_argument("model", help="name of the telescope")
    imports = action(
        "import", "import all trainings of a run, as the run itself does at its end; existing versions are kept"
    )
    imports.add_argument("--min-mcc", type=float, metavar="MCC", help="minimum MCC of a champion (gate.min_mcc)")
    imports.add_argument(
        "--max-fp",
        type=float,
        metavar="SHARE",
        help="maximum false positives of a champion, as a fraction of the test set (gate.max_fp)",
    )
    export = action("export", "write a trained network as ONNX")
    export.add_argument("model", help="folder of a training, or a .keras or .h5 file")
    export.add_argument("-o", "--output", metavar="ONNX", help="file to write (default: model.onnx next to the model)")
    export.add_argument(
        "--cube", help="cube that the model was trained on, to store the statistics of the training set"
    )
    export.add_argument("--threshold", type=probability, help="decision threshold of a model without records")


def _add_label(verb) -> None:
    label = verb("label", "look at candidates in a browser and label them by hand")
    actions = label.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = verb(
        "serve",
        "serve a page that shows the candidates worth a look and stores the answers",
        details="These are candidates with an uncertain score, with a disagreement between models, with a suspected wrong"
        " label, and new candidates. The page needs no network. Stop the server with Ctrl-C.",
        of=actions,
        function="label:label_serve",
    )
    serve.add_argument(
        "cubes",
        nargs="*",
        metavar="CUBE",
        help="TELESCOPE/PIPELINE of the run (default: all); with --model: cube (.npz), folder or FITS cutout of new candidates",
    )
    serve.add_argument("--results", default="results", help="results folder of the run (default: results)")
    serve.add_argument(
        "--experiments",
        help="comma-separated experiments whose scores are used (default: those of summary.csv, otherwise all)",
    )
    serve.add_argument(
        "-m",
        "--model",
        help="model that scores new candidates: model.onnx, folder of a training, or TELESCOPE[@VERSION]",
    )
    serve.add_argument("--telescope", default="", help="telescope of new candidates that do not name it")
    serve.add_argument(
        "--most", type=count, default=200, help="maximum number of candidates per reason and cube (default: 200)"
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; a token is required unless it is a loopback address"
    )
    serve.add_argument("--port", type=port, default=8765, help="port (default: 8765; 0: any free port)")
    serve.add_argument(
        "--token", action="store_true", help="require a token on a loopback address, too (for a shared machine)"
    )
    sheet = verb(
        "sheet",
        "write the label sheet for the workflow (configuration key labels)",
        of=actions,
        function="label:label_sheet",
    )
    sheet.add_argument("-o", "--output", metavar="CSV", help="sheet to write (default: standard output)")
    for made in (serve, sheet):
        made.add_argument("--database", default=LABELS, metavar="FILE", help=f"file of the answers (default: {LABELS})")
