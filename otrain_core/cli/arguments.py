"""Arguments of the command: types of numbers, and arguments that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

SHIPPED = "universal"  # same as `otrain_core.classify.shipped.NAME`, whose import would slow down the parser


def _within(kind: Callable[[str], float], least: float, most: float, allowed: str) -> Callable[[str], float]:
    """Type of an argument: a number from `least` to `most`."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {allowed}, not {text!r}")
        return value

    return number


_TINY = 5e-324  # the smallest number above 0
count = _within(int, 1, 10**6, "a whole number from 1 to 1000000")
number = _within(int, 0, 1000, "a whole number from 0 to 1000")
threads = _within(int, 1, 1024, "a whole number from 1 to 1024")
seed = _within(int, 0, 2**32 - 1, "a whole number from 0 to 4294967295")
positive = _within(float, _TINY, 1.7e308, "a positive number")
chance = _within(float, _TINY, 0.5, "a number above 0 and at most 0.5")
probability = _within(float, 0, 1, "a number from 0 to 1")
angle = _within(float, -180, 360, "a number of degrees from -180 to 360")
port = _within(int, 0, 65535, "a port number from 0 to 65535")


def _add_model(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "-m",
        "--model",
        default=SHIPPED,
        help="model file (.onnx, .keras, .h5), folder of a training, or registered model TELESCOPE[@VERSION] "
        "(default: the shipped model)",
    )
    made.add_argument(
        "--results", default="results", help="results folder with the registered models (default: results)"
    )


def add_candidates(made: argparse.ArgumentParser, more: str = "") -> None:
    """Add the arguments of classify and monitor: the candidates, and the model that scores them."""
    made.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=f"FITS cutouts, a folder of them, a cube (.npz), or a difference image{more}",
    )
    _add_model(made)
    _add_scoring(made)
    image = made.add_argument_group("options for a difference image")
    what = image.add_mutually_exclusive_group()
    what.add_argument(
        "--candidates",
        metavar="TABLE",
        help="table of candidates with x, y [px, from 0] or ra, dec [deg]: CSV, ECSV, FITS or text",
    )
    what.add_argument("--detect", action="store_true", help="detect the candidates on the difference image")
    image.add_argument("--science", help="science image on the same pixel grid; the PSF is measured on it")
    image.add_argument("--reference", help="reference image on the same pixel grid")
    image.add_argument("--mask", help="mask on the same pixel grid; unusable pixels are not 0")
    image.add_argument("--psf", help="FWHM [px], a PSF file of the workflow, or an image to measure the PSF on")
    image.add_argument(
        "--bin",
        type=count,
        default=1,
        metavar="N",
        help="first sum N x N pixels, for a seeing N times as large in pixels as that of the training (default: 1)",
    )
    image.add_argument("--sigma", type=positive, default=4.5, help="detection threshold of --detect (default: 4.5)")


def _add_scoring(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--threshold", type=probability, help="threshold on the raw score (default: the threshold of the model)"
    )
    made.add_argument("--threads", type=threads, default=1, help="number of CPU threads (default: 1)")


def add_recipe(made: argparse.ArgumentParser) -> None:
    """Add the arguments of search and night: the model, and how its cutouts are made."""
    _add_model(made)
    made.add_argument(
        "--pipeline", help="builtin, gmadet or stdpipe (default: the pipeline with which the model was trained)"
    )
    made.add_argument(
        "--both-signs", action="store_true", help="also find sources that are fainter than in the reference"
    )
    made.add_argument("--finder", metavar="FILE", help="find the candidates with this detector network (finder.onnx)")
    _add_scoring(made)
    made.add_argument(
        "--known",
        metavar="SOURCES",
        help="list known objects near the candidates: vsx, skybot[:OBSERVATORY] and CSV files, joined by +",
    )
    made.add_argument(
        "--stars", metavar="SOURCE", help="list stars and galaxies near the candidates: gaia, panstarrs or a CSV file"
    )
    made.add_argument(
        "--alerts", metavar="FOLDER", help="write an Avro alert packet in the schema of ZTF for each real candidate"
    )
    made.add_argument(
        "--report",
        choices=("skyportal", "tns"),
        help="write a JSON report in the format of this service; nothing is sent",
    )
    made.add_argument(
        "--report-about", metavar="YAML", help="details of the reporter (group, instrument, ...) for --report"
    )
    add_header_values(made)


def add_header_values(made: argparse.ArgumentParser) -> None:
    """Add the values for images whose headers lack them."""
    for name, unit in (("gain", "electron/ADU"), ("pixel-scale", "arcsec/px"), ("saturation", "ADU")):
        made.add_argument(
            f"--{name}", type=positive, help=f"{name.replace('-', ' ')} of images whose header lacks it [{unit}]"
        )


def share(text: str) -> float | None:
    """Type of an argument: a fraction between 0 and 1, or None for the word keep."""
    if text == "keep":
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a fraction between 0 and 1, or 'keep', not {text!r}")
    return value
