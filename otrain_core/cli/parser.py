"""The parser of the command: its verbs and their arguments."""

from __future__ import annotations

import argparse

from otrain_core import __version__
from otrain_core.cli.arguments import (
    SHIPPED,
    add_candidates,
    add_recipe,
    angle,
    chance,
    count,
    number,
    positive,
    probability,
    seed,
    share,
    threads,
)

LABELS = "labels.sqlite"  # beside the results: what people said is not to be deleted with them
EPILOG = """exit status: 0 done; 1 refused, or found unfit (the reason is on standard error); 2 wrong usage; 3 (monitor) unlike the training set, 4 (monitor) cannot be told"""


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
    common.add_argument("--quiet", action="store_true", help="no progress on standard error")
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
        "say whether images, folders of cutouts or cubes are fit for use",
        details="Headers, sizes, missing pixels, seeing, counts. Exit status 1 when one is not.",
    )
    check.add_argument("paths", nargs="+", metavar="PATH", help="FITS image, folder of cutouts, or cube (.npz)")
    for name, unit in (("gain", "electron/ADU"), ("pixel-scale", "arcsec/px"), ("saturation", "ADU")):
        check.add_argument(f"--{name}", type=positive, help=f"of images whose header lacks it [{unit}]")
    return parser


def _add_project_verbs(verb) -> None:
    init = verb(
        "init",
        "write a project for a folder of FITS files: configuration, telescopes and sheet of images",
        details="Headers are read, and some pixels. A table says what was found, what is assumed and what is missing."
        " Nothing is overwritten: run again, it adds what is new in the folder.",
        function="project:init",
    )
    init.add_argument("folder", help="folder of FITS files; folders in it count, too")
    init.add_argument("-o", "--output", metavar="PROJECT", help="folder of the project (default: FOLDER-otrain)")
    init.add_argument("--threads", type=threads, default=2, help="CPU threads (default 2)")
    example = verb(
        "example",
        "write a small set of simulated FITS files, as a telescope leaves them",
        details="Ten frames of one night, six of an earlier one, darks and flats; the headers say that they are simulated.",
        function="project:example",
    )
    example.add_argument("folder", help="folder to write to, new or empty")
    example.add_argument("--frames", type=count, default=10, help="frames of the later night (default 10)")
    example.add_argument("--wcs", action="store_true", help="with a WCS in the headers")
    example.add_argument("--seed", type=seed, default=1, help="of all random numbers (default 1)")
    solve = verb(
        "solve",
        "find the WCS of frames that have none, with solve-field of astrometry.net",
        details="Writes a header file NAME.wcs for each; frames with a WCS are passed over. Exit status 1 when one is not solved.",
        function="project:solve",
    )
    solve.add_argument("paths", nargs="+", metavar="PATH", help="FITS file, or folder of them")
    solve.add_argument("-o", "--output", metavar="FOLDER", help="folder to write to (default: beside each frame)")
    solve.add_argument("--scale", type=positive, help="pixel scale; replaces that of the headers [arcsec/px]")
    solve.add_argument("--seconds", type=count, default=60, help="CPU time for a frame at most (default 60)")
    solve.add_argument("--threads", type=threads, default=2, help="frames at a time (default 2)")
    plan = verb(
        "plan",
        "say what a run will cost and be enough for, before it is started",
        details="Jobs, time on this machine, disk, cutouts to expect of each class, and whether they are enough for a verdict.",
        function="project:plan",
    )
    plan.add_argument("config", nargs="+", help="configuration (YAML); later ones are laid over earlier ones")
    plan.add_argument("--results", default="results", help="folder of earlier runs (default: results)")
    run = verb(
        "run",
        "run the workflow on a configuration: train, evaluate, register, report",
        details="Snakemake with the options of make demo. Needs a clone of the project.",
        function="project:run",
    )
    run.add_argument("config", nargs="+", help="configuration (YAML); later ones are laid over earlier ones")
    run.add_argument("--cores", type=threads, help="CPU cores (default: all)")
    run.add_argument("--keep-going", action="store_true", help="leave bad images out, and report them")
    run.add_argument("--target", action="append", default=[], metavar="FILE", help="make this only (may stand twice)")


def _add_cutout_verbs(verb) -> None:
    convert = verb(
        "convert",
        "make a cube of True/ and False/ folders of FITS cutouts",
        details="Single images and multi-extension files (DIFF, IMAGE, TEMPLATE, MASK, PSF) are read.",
    )
    convert.add_argument("folder", help="folder that holds True/ and False/ (or true/ and false/)")
    convert.add_argument("-o", "--output", required=True, metavar="CUBE", help="cube to write (.npz)")
    convert.add_argument("--size", type=count, metavar="PX", help="crop to this side about the candidate")
    convert.add_argument(
        "--true-fraction", type=share, default=0.5, metavar="SHARE", help="share of True, or 'keep' (default 0.5)"
    )
    convert.add_argument(
        "--channels", default="difference", help="comma-separated, or 'all' that every file has (default: difference)"
    )
    convert.add_argument("--telescope", default="", help="name of the telescope, for the cube")
    convert.add_argument("--seed", type=seed, default=1, help="of the random choice of cutouts (default 1)")
    export = verb("export", "write a cube as True/ and False/ folders of FITS cutouts")
    export.add_argument("cube", help="cube (.npz), of this version or of the original O'TRAIN")
    export.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder to write to")


def _add_training_verbs(verb) -> None:
    train = verb(
        "train",
        "split a cube, train a network on it, evaluate it and write it as ONNX",
        details="Needs TensorFlow; what the workflow runs is run.",
    )
    train.add_argument("cube", help="cube (.npz); with --labels also a folder of cutouts of a night")
    train.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder of the training")
    train.add_argument("--labels", metavar="SHEET", help="train on the cutouts that this label sheet labels, alone")
    train.add_argument(
        "--experiment", help="named training set-up (default otrain2, or fine-tuned with --from universal)"
    )
    train.add_argument(
        "--from",
        dest="start",
        choices=[SHIPPED],
        help="fine-tune the shipped model as far as the labels show a gain, in place of a training from scratch",
    )
    train.add_argument("--epochs", type=count, help="epochs at most, in place of those of the experiment")
    train.add_argument("--inputs", help="comma-separated channels, in place of those of the experiment")
    train.add_argument("--seed", type=seed, default=1, help="of split, weights and order (default 1)")
    train.add_argument("--threads", type=threads, help="CPU threads")
    diagnose = verb("diagnose", "tell how good a training is and draw its figures")
    diagnose.add_argument("folder", help="folder of a training")
    diagnose.add_argument(
        "-o", "--output", metavar="FOLDER", help="folder for the figures (PNG; default: none are drawn)"
    )
    explain = verb("explain", "draw Grad-CAM maps of the decisions of a training")
    explain.add_argument("folder", help="folder of a training")
    explain.add_argument("--cube", required=True, help="cube (.npz) that it was trained on")
    explain.add_argument(
        "-o", "--output", metavar="FOLDER", help="where to write (default: the folder of the training)"
    )
    explain.add_argument("--seed", type=seed, default=1, help="of the choice of cutouts (default 1)")


def _add_classify(verb) -> None:
    classify = verb(
        "classify",
        "score candidates: cutouts, folders, a cube, or a difference image",
        function="classify:classify",
        details="Writes a CSV table: probability, decision, undecided, and why a candidate is unlike the training set.",
    )
    add_candidates(classify)
    classify.add_argument("-o", "--output", metavar="CSV", help="table to write (default: standard output)")
    classify.add_argument("--gallery", metavar="PNG", help="draw the lowest and the highest (needs matplotlib)")
    monitor = verb(
        "monitor",
        "compare a night's candidates with the training set, and advise whether to retrain",
        function="monitor:monitor",
        details="Seeing, PSF, noise, background, missing pixels and scores, image by image: all candidates of one image"
        " share its seeing. Exit status 3 when the night is unlike the training set.",
    )
    add_candidates(monitor, more=", or a table written by otrain classify (.csv)")
    monitor.add_argument("-o", "--output", metavar="PNG", help="figure to write (PNG or PDF; needs matplotlib)")
    monitor.add_argument(
        "--false-alarms",
        type=chance,
        default=0.01,
        metavar="SHARE",
        help="nights without a change that may raise an alarm (default 0.01)",
    )


def _add_search(verb) -> None:
    search = verb(
        "search",
        "find and score the candidates of tonight's images, from the frame to the table",
        function="search:search",
        details="Each image goes through the steps of the model's training, without injection. For each, the folder gets"
        " a table (ECSV and FITS), a record (JSON) and a picture of the best candidates.",
    )
    search.add_argument(
        "science",
        nargs="+",
        metavar="SCIENCE",
        help="science image (FITS); or the configuration of a project (otrain init), whose images and references are taken",
    )
    origin = search.add_mutually_exclusive_group()
    origin.add_argument("--reference", metavar="FITS", help="reference image")
    origin.add_argument("--stack", nargs="+", metavar="FITS", help="frames to stack the reference from")
    origin.add_argument("--survey", metavar="HIPS", help="survey to fetch it from (network), as CDS/P/PanSTARRS/DR1/r")
    search.add_argument("-o", "--output", required=True, metavar="FOLDER", help="folder to write to")
    search.add_argument("--wcs", metavar="FITS", help="header file with the WCS, for images that have none")
    search.add_argument("--catalogue", metavar="CSV", help="star catalogue, for pipelines that need one (ra, dec, mag)")
    search.add_argument("--keep-difference", action="store_true", help="keep the difference images")
    search.add_argument(
        "--gallery", type=number, default=24, metavar="N", help="best candidates drawn (default 24; 0: none)"
    )
    search.add_argument(
        "--inject",
        type=number,
        default=0,
        metavar="N",
        help="add N sources to a copy of each image, and tell how many are found at which magnitude",
    )
    search.add_argument("--inject-seed", type=number, default=1, metavar="SEED", help="of their places (default 1)")
    add_recipe(search)
    night = verb(
        "night",
        "search the images of a folder as they come, each once, and keep a page of the night",
        function="night:night",
        details="A ledger notes what is done, so that it can be ended and begun again at any time. Ctrl-C ends it."
        " A night lasts from noon to noon at the telescope (OBSGEO-L, SITELONG), or else of UTC.",
    )
    night.add_argument("folder", help="folder that fills; folders in it count, too")
    night.add_argument(
        "--references",
        required=True,
        metavar="MAP",
        help="a reference for all (FITS), a folder of references (found by their WCS), or a CSV (pattern, reference)",
    )
    night.add_argument(
        "-o", "--output", required=True, metavar="NIGHTS", help="folder of all nights, and its index.html"
    )
    night.add_argument("--once", action="store_true", help="work through what is there, and end")
    night.add_argument(
        "--longitude", type=angle, metavar="DEG", help="of the telescope, east positive, where headers lack it"
    )
    add_recipe(night)


def _add_models(verb) -> None:
    models = verb(
        "models",
        "list registered models, choose the champion, import trainings, write ONNX files",
        details="They are those of the server that MLFLOW_TRACKING_URI names, or of mlflow.db in the folder of the run.",
    )
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        made = verb(name, summary, of=actions, function=f"verbs:models_{name.replace('-', '_')}")
        made.add_argument("--results", default="results", help="folder of the run (default: results)")
        return made

    action("list", "list the shipped model and what it reaches, and all versions of all telescopes")
    promote = action("promote", "make a version the champion; imports then leave the choice alone")
    promote.add_argument("model", help="telescope")
    promote.add_argument("version", type=int)
    action("roll-back", "make the champion before this one the champion again").add_argument("model", help="telescope")
    action("automatic", "let imports choose the champion again").add_argument("model", help="telescope")
    imports = action("import", "import all trainings of a run, as the run does at its end; what is there already stays")
    imports.add_argument("--min-mcc", type=float, metavar="MCC", help="a champion has an MCC above this")
    imports.add_argument("--max-fp", type=float, metavar="SHARE", help="and at most this share of false positives")
    export = action("export", "write a trained network as ONNX")
    export.add_argument("model", help="folder of a training, or a .keras or .h5 file")
    export.add_argument("-o", "--output", metavar="ONNX", help="file to write (default: model.onnx beside the model)")
    export.add_argument("--cube", help="cube that it was trained on, for the statistics of the training set")
    export.add_argument("--threshold", type=probability, help="of a model that comes without records")


def _add_label(verb) -> None:
    label = verb("label", "look at candidates in a browser and label them by hand")
    actions = label.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = verb(
        "serve",
        "open a page that shows the candidates worth a look and keeps what people say of them",
        details="Uncertain, disagreeing, suspected and new ones. The page needs no network; end it with Ctrl-C.",
        of=actions,
        function="label:label_serve",
    )
    serve.add_argument(
        "cubes",
        nargs="*",
        metavar="CUBE",
        help="TELESCOPE/PIPELINE of the run (default: all); with --model: new candidates, as cubes (.npz), folders or FITS cutouts",
    )
    serve.add_argument("--results", default="results", help="folder of the run (default: results)")
    serve.add_argument(
        "--experiments", help="comma-separated, whose trainings are asked (default: those of summary.csv, else all)"
    )
    serve.add_argument(
        "-m", "--model", help="scores new candidates: model.onnx, folder of a training, TELESCOPE[@VERSION]"
    )
    serve.add_argument("--telescope", default="", help="of new candidates that do not name theirs")
    serve.add_argument("--most", type=count, default=200, help="candidates for one reason from one cube (default 200)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; all but loopback ask for a token")
    serve.add_argument("--port", type=int, default=8765, help="port (default 8765; 0: any that is free)")
    serve.add_argument(
        "--token", action="store_true", help="ask for a token on loopback too (a machine of many people)"
    )
    sheet = verb(
        "sheet", "write the label sheet that the workflow reads (key labels)", of=actions, function="label:label_sheet"
    )
    sheet.add_argument("-o", "--output", metavar="CSV", help="sheet to write (default: standard output)")
    for made in (serve, sheet):
        made.add_argument("--database", default=LABELS, metavar="FILE", help=f"answers (default: {LABELS})")
