"""External programs that some pipelines need: where they are, and how to get them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from otrain_core.errors import MissingProgramError

# Names under which a program is installed, and how to get it.
PROGRAMS = {
    "source-extractor": (("source-extractor", "sex", "sextractor"), "package source-extractor of Debian"),
    "psfex": (("psfex",), "package psfex of Debian"),
    "scamp": (("scamp",), "package scamp of Debian"),
    "swarp": (("SWarp", "swarp"), "package swarp of Debian"),
    "solve-field": (
        ("solve-field",),
        "packages astrometry.net and astrometry-data-tycho2 of Debian (index files for fields of 0.2 degrees and more)",
    ),
    "hotpants": (("hotpants",), "built from https://github.com/acbecker/hotpants with a C compiler and CFITSIO"),
}
CONDA = "astromatic-{name} on conda-forge"


def find_program(name: str, *, path: str | None = None) -> str:
    """Path of an external program.

    Parameters
    ----------
    name : str
        A key of `PROGRAMS`.
    path : str, optional
        Where the configuration says that it is.

    Raises
    ------
    MissingProgramError
        It is not there; says how to get it.
    """
    names, source = PROGRAMS[name]
    if path is not None:
        found = shutil.which(path)
        if found is None:
            raise MissingProgramError(f"{name}: {path}: no such program (subtract.{name}_program)")
        return found
    for candidate in names:
        if found := shutil.which(candidate):
            return found
    if name not in ("hotpants", "solve-field"):
        source += f", or {CONDA.format(name=name)}"
    raise MissingProgramError(f"the program {name} is not on the PATH; it is to be had as {source}")


def needed_programs(pipeline: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str | None]]:
    """Programs that the options of a pipeline call for.

    Parameters
    ----------
    pipeline : mapping
        Options by step and key.

    Returns
    -------
    list of (program, key that asks for it, path in the configuration or None)
    """
    psf, subtract, detect = pipeline["psf"], pipeline["subtract"], pipeline["detect"]
    needed: list[tuple[str, str, str | None]] = []
    if psf["method"] == "psfex":
        needed += [("source-extractor", "psf.method: psfex", None), ("psfex", "psf.method: psfex", None)]
    if psf["astrometry"] == "scamp":
        needed += [("source-extractor", "psf.astrometry: scamp", None), ("scamp", "psf.astrometry: scamp", None)]
    if subtract["align"] == "swarp":
        needed.append(("swarp", "subtract.align: swarp", None))
    if subtract["method"] == "hotpants" and subtract["fallback"] == "none":
        needed.append(("hotpants", "subtract.method: hotpants", subtract["hotpants_program"]))
    if detect["method"] in ("source-extractor", "stdpipe"):
        needed.append(("source-extractor", f"detect.method: {detect['method']}", None))
    return needed


def require_programs(pipeline: Mapping[str, Mapping[str, Any]], *, name: str) -> None:
    """Raise before any work if a program of the pipeline `name` is missing.

    Raises
    ------
    MissingProgramError
    """
    for program, key, path in needed_programs(pipeline):
        try:
            find_program(program, path=path)
        except MissingProgramError as error:
            raise MissingProgramError(f"pipelines.{name}: {key}: {error}") from None
