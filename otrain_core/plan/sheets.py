"""The columns of the image sheet and of the label sheet, and their readers."""

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
        description="FITS file, relative to data_root; night.fits[SCI] selects an extension, night.fits[*] all images of a mosaic"
    )
    role: Literal["science", "reference"] = Field(
        "science", description="science image, or one of the frames that are stacked into the reference of the field"
    )
    field: Name | None = Field(
        None, description="name of the field; its reference is stacked from the rows with role reference"
    )
    reference: str | None = Field(
        None,
        description="FITS file of an existing reference, instead of field; hips:NAME for a survey of hips2fits (network)",
    )
    wcs: str | None = Field(None, description="FITS header file with the WCS, if the image has none")

    @model_validator(mode="after")
    def _one_reference(self):
        if self.role == "science" and (self.field is None) == (self.reference is None):
            raise ValueError("field, reference: a science image needs exactly one of them")
        if self.role == "reference" and self.field is None:
            raise ValueError("field: needed for a row with role reference")
        return self


class LabelRow(Section):
    """One row of the label sheet: one person's answer about one candidate.

    The sheet is written by `otrain label sheet` or by hand. A candidate is identified by its position (image, x, y) or
    by its candid; if both are given, the position counts. The label of a candidate is the answer of at least two thirds
    of all people who answered ("unsure" is an answer); without such a majority the candidate is left out.
    """

    telescope: Name = Field(description="name of the telescope")
    pipeline: Name | None = Field(None, description="pipeline of the candidate (empty: all)")
    image: str | None = Field(None, description="image of the candidate")
    candid: str | None = Field(None, description="name of the candidate, as in the cube (candids)")
    x: float | None = Field(None, description="column of the candidate [px, from 0]")
    y: float | None = Field(None, description="row of the candidate [px, from 0]")
    label: Literal["True", "False", "unsure"] = Field(description="label of the candidate; unsure: left out")
    before: Literal["True", "False", "left out"] | None = Field(
        None,
        description="label of the candidate when it was shown; the row is ignored if a source was injected there or "
        "removed in the meantime",
    )
    who: str = Field("", description="name of the person")
    when: str | None = Field(None, description="time of the answer (ISO, UTC); the latest answer of a person counts")

    @field_validator("image", "candid", mode="before")
    @classmethod
    def _as_named(cls, value):  # `otrain label sheet` guards names that a spreadsheet would take for a formula
        return unguarded(value) if isinstance(value, str) else value

    @field_validator("label", "before", mode="before")
    @classmethod
    def _any_case(cls, value):  # spreadsheets write TRUE
        return value.capitalize() if str(value).lower() in ("true", "false") else value

    @model_validator(mode="after")
    def _names_a_candidate(self):
        if self.candid is None and None in (self.image, self.x, self.y):
            raise ValueError("give candid, or image, x and y")
        if (self.x is None) != (self.y is None):
            raise ValueError("x, y: give both or neither")
        return self


def _read_sheet(path: str | Path, model: type[Section]) -> list[Any]:
    parsed = []
    for line, cells in read_rows(path, model.model_fields):
        for key in NUMBERS.intersection(cells):  # in many countries, spreadsheets write 3,5
            cells[key] = re.sub(r"^([-+]?\d+),(\d+)$", r"\1.\2", cells[key])
        try:
            parsed.append(model.model_validate(cells))
        except ValidationError as error:
            raise ConfigError(explain_first(error, f"sheet {path}, row {line}")) from None
    return parsed


def read_images(path: str | Path) -> dict[str, dict[str, ImageRow]]:
    """Read the image sheet as ``{telescope: {image: row}}``, sorted by image name.

    Raises
    ------
    ConfigError
        Missing file, unknown column, invalid value, or duplicate image name.
    """
    sheet: dict[str, dict[str, ImageRow]] = {}
    for row in _read_sheet(path, ImageRow):
        images = sheet.setdefault(row.telescope, {})
        if row.image in images:
            raise ConfigError(f"sheet {path}: image: {row.image!r} appears twice for telescope {row.telescope!r}")
        images[row.image] = row
    return {telescope: dict(sorted(images.items())) for telescope, images in sorted(sheet.items())}


def read_labels(path: str | Path) -> list[dict[str, Any]]:
    """Read the label sheet as a list of rows.

    Raises
    ------
    ConfigError
        Missing file, unknown column, or invalid value.
    """
    return [row.model_dump() for row in _read_sheet(path, LabelRow)]
