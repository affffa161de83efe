"""The sheets of telescopes, images and labels: their columns, reading them, and the pools that telescopes make."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from otrain_core.errors import ConfigError
from otrain_core.plan.sections import Name, Section, explain_first, near_name

RESERVED_NAMES = (
    "benchmarks",
    "cache",
    "failures",
    "images",
    "logs",
    "mlartifacts",
    "paper",
    "published",
    "sky",
    "unfinished",
)


class Telescope(Section):
    """One row of the telescope sheet. Empty cells take the default.

    The first block holds for every telescope; what an image header says wins over
    the sheet. The rest is read for simulated telescopes only.
    """

    telescope: Name = Field(description="name; models are registered as otrain-{telescope}")
    source: Literal["simulated", "images", "folders"] = Field(
        "images", description="simulated sky, the images sheet, or ready-made True/ and False/ folders of FITS cutouts"
    )
    folder: str | None = Field(
        None, description="folder that holds True/ and False/, relative to data_root (source folders)"
    )
    pixel_scale: float | None = Field(None, gt=0, description="pixel scale [arcsec/px]; needed without WCS")
    gain: float | None = Field(None, gt=0, description="gain [electron/ADU]")
    read_noise: float | None = Field(None, ge=0, description="read noise [electron]")
    saturation: float | None = Field(None, gt=0, description="saturation level [ADU]")
    filter: str = Field("clear", description="filter when the header names none")
    catalogue: str | None = Field(
        None,
        description="star catalogue: a CSV file (ra, dec [deg], mag; color), gaia or panstarrs (network); simulated telescopes have their own",
    )
    known: str | None = Field(
        None,
        description="known variables and moving objects, taken out of False: a CSV file (ra, dec [deg]), or vsx, skybot or skybot:CODE with the IAU code of the observatory (network), joined by +; simulated telescopes know their own",
    )
    n_images: int = Field(0, ge=0, description="science images to simulate, each of a field of its own")
    width: int = Field(1024, ge=64, description="detector width [px]")
    height: int = Field(1024, ge=64, description="detector height [px]")
    detector: Literal["ccd", "cmos"] = Field("ccd", description="type of the detector (cmos: nothing bleeds)")
    exposure: float = Field(60.0, gt=0, description="exposure time [s]")
    zero_point: float = Field(25.0, description="magnitude that gives 1 ADU in the exposure")
    sky_mag: float = Field(20.5, description="sky brightness [mag/arcsec2]")
    seeing: float = Field(2.0, gt=0, description="median FWHM of a star, pixel included [arcsec]")
    seeing_spread: float = Field(0.15, ge=0, description="scatter of the seeing from image to image [relative]")
    psf_beta: float = Field(3.0, gt=1.1, description="Moffat beta of the PSF")
    psf_ellipticity: float = Field(0.05, ge=0, lt=0.6, description="ellipticity of the PSF at the field centre")
    psf_variation: float = Field(0.1, ge=0, lt=1, description="relative change of FWHM from the centre to the corner")
    star_density: float = Field(400.0, ge=0, description="stars per million pixels down to the 5-sigma limit")
    variables: float = Field(0.0, ge=0, description="variable stars per image, half of them in lists of known ones")
    asteroids: float = Field(0.0, ge=0, description="moving objects per image, half of them in lists of known ones")
    color_term: float = Field(
        0.0, description="colour term between the science image and the reference [mag per mag of g - r]"
    )
    galaxy_density: float = Field(60.0, ge=0, description="galaxies per million pixels down to the 5-sigma limit")
    pointing: float = Field(10.0, ge=0, description="scatter of the pointing between science and reference [px]")
    rotation: float = Field(0.2, ge=0, description="scatter of the field rotation [deg]")
    wcs_error: float = Field(0.1, ge=0, description="scatter of the WCS solution of an image [px]")
    tracking: float = Field(0.3, ge=0, description="scatter of the trailing of the stars [px]")
    reference_seeing: float = Field(0.8, gt=0, description="seeing of the reference over that of the science image")
    reference_depth: float = Field(4.0, gt=0, description="exposure of the reference over that of the science image")
    reference_scale: float = Field(1.0, gt=0, description="pixel scale of the reference over that of the science image")
    cosmics: float = Field(20.0, ge=0, description="cosmic rays per million pixels")
    hot_pixels: float = Field(30.0, ge=0, description="hot pixels and groups per million pixels")
    bad_columns: float = Field(1.0, ge=0, description="bad columns per image")
    trails: float = Field(0.3, ge=0, description="satellite and plane trails per image")
    ghosts: float = Field(0.5, ge=0, description="ghosts of bright stars per image")
    crosstalk: float = Field(0.0, ge=0, description="crosstalk of saturated stars, relative to their signal")
    bleed: bool = Field(True, description="saturated stars bleed along columns")
    assumptions: str = Field("", description="columns whose value is an assumption, separated by semicolons")

    @model_validator(mode="after")
    def _source_is_complete(self):
        if self.telescope in RESERVED_NAMES:
            raise ValueError(f"telescope: {self.telescope!r} is the name of a folder of results")
        if self.source == "folders" and not self.folder:
            raise ValueError("folder is needed for a telescope with source folders")
        if self.source == "simulated":
            for key in ("pixel_scale", "gain", "read_noise", "saturation"):
                if getattr(self, key) is None:
                    raise ValueError(f"{key} is needed for a simulated telescope")
            if self.n_images < 1:
                raise ValueError("n_images must be at least 1 for a simulated telescope")
        return self


class ImageRow(Section):
    """One row of the sheet of images."""

    telescope: Name = Field(description="telescope of the telescope sheet")
    image: Name = Field(description="name of the image, unique within its telescope")
    path: str = Field(description="FITS file, relative to data_root")
    role: Literal["science", "reference"] = Field(
        "science", description="reference: one of the frames from which the reference of its field is stacked"
    )
    field: Name | None = Field(None, description="field whose stacked reference is used (rows with role reference)")
    reference: str | None = Field(
        None,
        description="FITS file of a ready reference, instead of field; hips:NAME for a survey of hips2fits (network)",
    )
    wcs: str | None = Field(None, description="FITS header file with the WCS, if the image has none")

    @model_validator(mode="after")
    def _one_reference(self):
        if self.role == "science" and (self.field is None) == (self.reference is None):
            raise ValueError("a science image needs either field or reference")
        if self.role == "reference" and self.field is None:
            raise ValueError("a reference frame needs field")
        return self


class LabelRow(Section):
    """One row of the label sheet: one person's answer about one candidate.

    `otrain label sheet` writes it, and it can be written by hand. A candidate is named by its place (image, x, y), by
    its candid, or by both, and then the place decides. A label needs two thirds of all who answered
    ("unsure" is an answer); without, the candidate is left out.
    """

    telescope: Name = Field(description="telescope of the telescope sheet")
    pipeline: Name | None = Field(None, description="pipeline of the candidate (empty: all)")
    image: str | None = Field(None, description="image of the candidate")
    candid: str | None = Field(None, description="name of the candidate, as in the cube (candids)")
    x: float | None = Field(None, description="column [px from 0]")
    y: float | None = Field(None, description="row [px from 0]")
    label: Literal["True", "False", "unsure"] = Field(description="what it is; unsure leaves it out")
    before: Literal["True", "False", "left out"] | None = Field(
        None,
        description="its label when it was shown; the row is void where a source has been injected there since, or no longer is",
    )
    who: str = Field("", description="name of the person")
    when: str | None = Field(
        None, description="time of the answer (ISO, UTC); of two of one person the later one counts"
    )

    @field_validator("label", "before", mode="before")
    @classmethod
    def _any_case(cls, value):  # spreadsheets write TRUE
        return value.capitalize() if str(value).lower() in ("true", "false") else value

    @model_validator(mode="after")
    def _names_a_candidate(self):
        if self.candid is None and None in (self.image, self.x, self.y):
            raise ValueError("candid, or image, x and y, are needed")
        if (self.x is None) != (self.y is None):
            raise ValueError("x and y are needed together")
        return self


def _read_sheet(path: str | Path, model: type[Section]) -> list[Any]:
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    except FileNotFoundError:
        raise ConfigError(f"sheet {path}: no such file") from None
    parsed = []
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ConfigError(f"sheet {path}, row {number}: not as many cells as the header has columns")
        cells = {key.strip(): value.strip() for key, value in row.items() if value.strip() != ""}
        for key in row:
            if key.strip() not in model.model_fields:
                raise ConfigError(f"sheet {path}: {key.strip()}: unknown column{near_name(key.strip(), '')}")
        try:
            parsed.append(model.model_validate(cells))
        except ValidationError as error:
            raise ConfigError(explain_first(error, f"sheet {path}, row {number}")) from None
    return parsed


def read_telescopes(path: str | Path) -> dict[str, Telescope]:
    """Telescope sheet as a dictionary of rows by name.

    Raises
    ------
    ConfigError
        Missing file, unknown column, bad value or a name that stands twice.
    """
    rows: dict[str, Telescope] = {}
    for row in _read_sheet(path, Telescope):
        if row.telescope in rows:
            raise ConfigError(f"sheet {path}: telescope: {row.telescope!r} stands twice")
        rows[row.telescope] = row
    return rows


def read_images(path: str | Path) -> dict[str, dict[str, ImageRow]]:
    """Image sheet as ``{telescope: {image: row}}``, sorted by image name.

    Raises
    ------
    ConfigError
        Missing file, unknown column, bad value or an image name that stands twice.
    """
    sheet: dict[str, dict[str, ImageRow]] = {}
    for row in _read_sheet(path, ImageRow):
        images = sheet.setdefault(row.telescope, {})
        if row.image in images:
            raise ConfigError(f"sheet {path}: image: {row.image!r} stands twice for telescope {row.telescope!r}")
        images[row.image] = row
    return {telescope: dict(sorted(images.items())) for telescope, images in sorted(sheet.items())}


def read_labels(path: str | Path) -> list[dict[str, Any]]:
    """Label sheet as a list of rows.

    Raises
    ------
    ConfigError
        Missing file, unknown column or bad value.
    """
    return [row.model_dump() for row in _read_sheet(path, LabelRow)]
