"""An archive of images to search: which they are, and which job takes which."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import Any

from pydantic import Field

from otrain_core.errors import ConfigError
from otrain_core.plan.sections import Section
from otrain_core.plan.spreadsheets import read_rows

SHEETS = (".csv", ".tsv", ".txt", ".xlsx")


class ArchiveOptions(Section):
    """Images of many nights to find and score candidates in (target search)."""

    images: str | None = Field(
        None,
        description="pattern of files (data/**/*.fits), or sheet with the column path, and reference and wcs where needed",
    )
    references: str | None = Field(
        None,
        description="reference of all images, folder of references, or list (pattern, reference), as of otrain night",
    )
    model: str | None = Field(None, description="ONNX file (null: the shipped model)")
    images_per_job: int = Field(50, ge=1, le=10_000, description="images that one job takes, one after the other")
    both_signs: bool = Field(False, description="candidates that are fainter than in the reference, too")
    gain: float | None = Field(None, gt=0, description="where headers say none [electron/ADU]")
    pixel_scale: float | None = Field(None, gt=0, description="of images without a WCS [arcsec/px]")
    saturation: float | None = Field(None, gt=0, description="where headers say none [ADU]")


@dataclass(frozen=True)
class ArchiveImage:
    """One image of an archive; paths."""

    path: str
    reference: str | None = None
    wcs: str | None = None


def archive_images(options: ArchiveOptions) -> list[ArchiveImage]:
    """The images of an archive: by path from a pattern, in the order of a sheet.

    Raises
    ------
    ConfigError
        No key ``images``, nothing matches, a sheet without the column path, or an image without a reference.
    """
    if options.images is None:
        raise ConfigError("archive.images: a pattern of files or a sheet is needed, to search an archive")
    if options.images.lower().endswith(SHEETS):
        rows = read_rows(options.images, {"path", "reference", "wcs"})
        for line, cells in rows:
            if "path" not in cells:
                raise ConfigError(f"archive.images: {options.images}: line {line}: path: empty")
        images = [ArchiveImage(cells["path"], cells.get("reference"), cells.get("wcs")) for _, cells in rows]
    else:
        images = [ArchiveImage(path) for path in sorted(glob(options.images, recursive=True)) if Path(path).is_file()]
    if not images:
        raise ConfigError(f"archive.images: {options.images}: no image")
    without = next((image.path for image in images if image.reference is None), None)
    if options.references is None and without is not None:
        raise ConfigError(f"archive.references: {without} needs a reference")
    return images


def archive_jobs(options: ArchiveOptions) -> dict[str, list[dict[str, Any]]]:
    """Images of each job as plain values, by the number of the job: neighbours in the list share one.

    Raises
    ------
    ConfigError
        As `archive_images`.
    """
    images, step = archive_images(options), options.images_per_job
    return {
        f"{start // step:05d}": [asdict(image) for image in images[start : start + step]]
        for start in range(0, len(images), step)
    }
