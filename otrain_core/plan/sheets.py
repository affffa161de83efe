"""The sheets of images and of labels: their columns, and reading them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from otrain_core.errors import ConfigError
from otrain_core.io import unguarded
from otrain_core.plan.sections import Name, Section, explain_first
from otrain_core.plan.spreadsheets import read_rows

NUMBERS = {"x", "y"}  # columns that hold numbers


class ImageRow(Section):
    """One row of the sheet of images."""

    telescope: Name = Field(description="name of the telescope")
    image: Name = Field(description="name of the image, unique within its telescope")
    path: str = Field(
        description="FITS file, relative to data_root; night.fits[SCI] names an extension, night.fits[*] stands for all images of a mosaic"
    )
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

    telescope: Name = Field(description="name of the telescope")
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

    @field_validator("image", "candid", mode="before")
    @classmethod
    def _as_named(cls, value):  # `otrain label sheet` puts a quote before what a spreadsheet takes for a formula
        return unguarded(value) if isinstance(value, str) else value

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
    parsed = []
    for line, cells in read_rows(path, model.model_fields):
        for key in NUMBERS.intersection(cells):  # spreadsheets of many countries write 3,5
            cells[key] = re.sub(r"^([-+]?\d+),(\d+)$", r"\1.\2", cells[key])
        try:
            parsed.append(model.model_validate(cells))
        except ValidationError as error:
            raise ConfigError(explain_first(error, f"sheet {path}, row {line}")) from None
    return parsed


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
