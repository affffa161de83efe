"""Arguments of the command: kinds of numbers, and what several verbs take."""

from __future__ import annotations

import argparse
from collections.abc import Callable

SHIPPED = "universal"  # `otrain_core.classify.shipped.NAME`, written out: parsing imports nothing heavy


def _within(kind: Callable[[str], float], least: float, most: float, said: str) -> Callable[[str], float]:
    """Type of an argument: a number from `least` to `most`."""

    def number(text: str) -> float:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{said} is needed")
        return value

    return number


_TINY = 5e-324  # the smallest number above 0
count = _within(int, 1, 10**6, "a whole number from 1 to 1000000")
number = _within(int, 0, 1000, "a whole number from 0 to 1000")
threads = _within(int, 1, 1024, "a whole number of threads, from 1 to 1024,")
seed = _within(int, 0, 2**32 - 1, "a whole number from 0 to 4294967295")
positive = _within(float, _TINY, 1.7e308, "a positive number")
chance = _within(float, _TINY, 0.5, "a number above 0, and 0.5 at most,")
probability = _within(float, 0, 1, "a number from 0 to 1")
angle = _within(float, -180, 360, "a number of degrees from -180 to 360")


def _add_model(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "-m",
        "--model",
        default=SHIPPED,
        help="model file (.onnx, .keras, .h5), folder of a training, or TELESCOPE[@VERSION] (default: the shipped model)",
    )
    made.add_argument("--results", default="results", help="run that registered the telescope (default: results)")


def add_candidates(made: argparse.ArgumentParser, more: str = "") -> None:
    """Candidates and the model that scores them: arguments of classify and of monitor."""
    made.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=f"FITS cutouts, a folder of them, a cube (.npz), or a difference image{more}",
    )
    _add_model(made)
    made.add_argument("--threshold", type=probability, help="in place of the model's own, of the raw score")
    made.add_argument("--threads", type=threads, default=1, help="CPU threads (default 1)")
    image = made.add_argument_group("difference image")
    what = image.add_mutually_exclusive_group()
    what.add_argument("--candidates", metavar="TABLE", help="x, y [px, from 0] or ra, dec [deg]: CSV, ECSV, FITS, text")
    what.add_argument("--detect", action="store_true", help="find candidates on the image")
    image.add_argument("--science", help="science image on the same pixels; the PSF is measured on it")
    image.add_argument("--reference", help="reference image on the same pixels")
    image.add_argument("--mask", help="mask on the same pixels, not 0 where a pixel cannot be used")
    image.add_argument("--psf", help="FWHM [px], a PSF file of the workflow, or an image whose stars have the PSF")
    image.add_argument(
        "--bin",
        type=count,
        default=1,
        metavar="N",
        help="sum N x N pixels first, where the seeing is N times the training's",
    )
    image.add_argument("--sigma", type=positive, default=4.5, help="threshold of --detect (default 4.5)")


def add_recipe(made: argparse.ArgumentParser) -> None:
    """The model and how its cutouts are made: arguments of search and of night."""
    _add_model(made)
    made.add_argument("--pipeline", help="builtin, gmadet or stdpipe, in place of the one of the training")
    made.add_argument("--both-signs", action="store_true", help="also sources fainter than in the reference")
    made.add_argument("--finder", metavar="FILE", help="find the candidates with this detector network (finder.onnx)")
    made.add_argument("--threshold", type=probability, help="in place of the model's own, of the raw score")
    made.add_argument("--threads", type=threads, default=1, help="CPU threads (default 1)")
    made.add_argument(
        "--known",
        metavar="SOURCES",
        help="known objects near candidates: vsx, skybot[:OBSERVATORY], CSV files, joined by +",
    )
    made.add_argument(
        "--stars", metavar="SOURCE", help="stars and galaxies near candidates: gaia, panstarrs or a CSV file"
    )
    made.add_argument(
        "--alerts", metavar="FOLDER", help="write Avro packets in the schema of ZTF, one for each real one"
    )
    made.add_argument(
        "--report", choices=("skyportal", "tns"), help="write JSON that the service takes; nothing is sent"
    )
    made.add_argument("--report-about", metavar="YAML", help="who reports: group, instrument and so on, for --report")
    for name, unit in (("gain", "electron/ADU"), ("pixel-scale", "arcsec/px"), ("saturation", "ADU")):
        made.add_argument(f"--{name}", type=positive, help=f"of images whose header lacks it [{unit}]")


def share(text: str) -> float | None:
    """Type of an argument: a share between 0 and 1, or None for the word keep."""
    if text == "keep":
        return None
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("a share between 0 and 1, or 'keep', is needed")
    return value
