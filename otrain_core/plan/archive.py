"""Images of an archive to search, and their distribution over the jobs."""

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
    """Search for candidates in images of many nights (target search)."""

    images: str | None = Field(
        None,
        description="file pattern (data/**/*.fits), or a sheet with the column path and, if needed, reference and wcs",
    )
    references: str | None = Field(
        None,
        description="one reference for all images, a folder of references, or a list (pattern, reference), as for otrain "
        "night --references",
    )
    model: str | None = Field(None, description="ONNX file of the model (null: the shipped model)")
    images_per_job: int = Field(50, ge=1, le=10_000, description="number of images that one job processes in turn")
    both_signs: bool = Field(False, description="also find sources that are fainter than in the reference")
    gain: float | None = Field(None, gt=0, description="gain of images whose header lacks it [electron/ADU]")
    pixel_scale: float | None = Field(None, gt=0, description="pixel scale of images without a WCS [arcsec/px]")
    saturation: float | None = Field(None, gt=0, description="saturation level of images whose header lacks it [ADU]")


@dataclass(frozen=True)
class ArchiveImage:
    """Paths of one image of an archive, its reference and its WCS header."""

    path: str
    reference: str | None = None
    wcs: str | None = None


def archive_images(options: ArchiveOptions) -> list[ArchiveImage]:
    """The images of an archive, sorted by path for a pattern, or in the order of the sheet.

    Raises
    ------
    ConfigError
        The key ``images`` is missing, the pattern matches no file, a row of the sheet has no path, or an image has no
        reference.
    """
    if options.images is None:
        raise ConfigError("archive.images: give a file pattern or a sheet of the images to search")
    if options.images.lower().endswith(SHEETS):
        rows = read_rows(options.images, {"path", "reference", "wcs"})
        for line, cells in rows:
            if "path" not in cells:
                raise ConfigError(f"archive.images: {options.images}: line {line}: path: empty")
        images = [ArchiveImage(cells["path"], cells.get("reference"), cells.get("wcs")) for _, cells in rows]
    else:
        images = [ArchiveImage(path) for path in sorted(glob(options.images, recursive=True)) if Path(path).is_file()]
    if not images:
        raise ConfigError(f"archive.images: {options.images}: no such image")
    without = next((image.path for image in images if image.reference is None), None)
    if options.references is None and without is not None:
        raise ConfigError(f"archive.references: {without} has no reference; give archive.references")
    return images


def archive_jobs(options: ArchiveOptions) -> dict[str, list[dict[str, Any]]]:
    """Images of each job as plain values, by the number of the job; consecutive images share a job.

    Raises
    ------
    ConfigError
        See `archive_images`.
    """
    images, step = archive_images(options), options.images_per_job
    return {
        f"{start // step:05d}": [asdict(image) for image in images[start : start + step]]
        for start in range(0, len(images), step)
    }
