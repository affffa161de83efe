"""Inputs of a run: science images, references, WCS headers, catalogues and folders of cutouts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from otrain_core.errors import ConfigError, ImageError
from otrain_core.extensions import file_of, split_extension
from otrain_core.plan.config import Config
from otrain_core.plan.sheets import ImageRow
from otrain_core.plan.telescopes import HIPS, Telescope, is_service


class Inputs:
    """Input files of a run, by telescope and image.

    Parameters
    ----------
    config : Config
    telescopes : mapping of str to Telescope
    sheet : mapping of str to mapping of str to ImageRow
        Image sheet by telescope and image.
    drawn : sequence of str
        Names of the random telescopes.
    """

    def __init__(
        self,
        config: Config,
        telescopes: Mapping[str, Telescope],
        sheet: Mapping[str, Mapping[str, ImageRow]],
        drawn: Sequence[str] = (),
    ):
        self.sheet = sheet
        self._config, self._telescopes = config, telescopes
        self._images = {name: self._science_images(name) for name in [*used_telescopes(config), *drawn]}
        # Indexed once: a search through the sheet for every image would take quadratic time.
        self._numbers = {name: {image: k for k, image in enumerate(images)} for name, images in self._images.items()}
        self._reference_rows: dict[tuple[str, str], list[ImageRow]] = {}
        for telescope, images in sheet.items():
            for row in images.values():
                if row.role == "reference" and row.field is not None:
                    self._reference_rows.setdefault((telescope, row.field), []).append(row)

    def _science_images(self, telescope: str) -> list[str]:
        entry = self._telescopes[telescope]
        if entry.sky is not None:
            names = [f"sim{number:04d}" for number in range(1, entry.sky.n_images + 1)]
        elif entry.source == "folders":
            names = []
        else:
            names = [name for name, image in self.sheet.get(telescope, {}).items() if image.role == "science"]
        return names[: self._config.run.max_images]

    def _data(self, path: str) -> str:
        return str(Path(self._config.data_root) / path)

    def _frame(self, telescope: str, path: str) -> str:
        """Path of a frame with its extension, which the sheet or the telescope gives."""
        extension = self._telescopes[telescope].detector.extension
        path = self._data(path)
        return path if extension is None or split_extension(path)[1] is not None else f"{path}[{extension}]"

    def images(self, telescope: str) -> list[str]:
        """Names of the science images of a telescope, sorted."""
        return self._images[telescope]

    def number(self, telescope: str, image: str) -> int:
        """Index of a science image among those of its telescope, from 0."""
        return self._numbers[telescope][image]

    def parts(self, telescope: str) -> list[str]:
        """First image of every fused job of a telescope; a job processes `run.images_per_job` images."""
        return self._images[telescope][:: self._config.run.images_per_job]

    def part(self, telescope: str, first: str) -> list[str]:
        """Images of the fused job that begins with the image `first`."""
        start = self._numbers[telescope][first]
        return self._images[telescope][start : start + self._config.run.images_per_job]

    def simulated(self, telescope: str) -> dict[str, Any]:
        """Entry of a simulated telescope, without the keys that do not change the pixels of an image."""
        return self._telescopes[telescope].model_dump(
            exclude={"assumptions": True, "folder": True, "catalogue": True, "known": True, "sky": {"n_images"}}
        )

    def science(self, telescope: str, image: str) -> str:
        """Path of a science image before any processing."""
        if self._telescopes[telescope].source == "simulated":
            return f"results/{telescope}/sky/{image}/science.fits"
        return self._frame(telescope, self.sheet[telescope][image].path)

    def reference(self, telescope: str, image: str) -> str:
        """Path of the reference of a science image."""
        if self._telescopes[telescope].source == "simulated":
            return f"results/{telescope}/sky/{image}/reference.fits"
        row = self.sheet[telescope][image]
        if row.reference and row.reference.startswith(HIPS):
            return f"results/{telescope}/sky/{image}.survey.fits"
        return self._data(row.reference) if row.reference else f"results/{telescope}/sky/{row.field}.reference.fits"

    def field(self, telescope: str, image: str) -> str:
        """Label shared by the science images of one field: "field NAME" or "reference FILE", '' if unknown."""
        row = self.sheet.get(telescope, {}).get(image)
        if row is None or (row.reference or "").startswith(HIPS):  # every image has its own cutout of the survey
            return ""
        return f"field {row.field}" if row.field else f"reference {row.reference}"

    def hips(self, telescope: str, image: str) -> str:
        """Name of the survey (HiPS) from which the reference of a science image is fetched."""
        return (self.sheet[telescope][image].reference or "").removeprefix(HIPS)

    def wcs(self, telescope: str, image: str) -> str | None:
        """Path of the WCS header file of a science image, or None."""
        row = self.sheet.get(telescope, {}).get(image)
        return self._data(row.wcs) if row is not None and row.wcs else None

    def reference_frames(self, telescope: str, field: str) -> list[str]:
        """Paths of the frames from which the reference of a field is stacked."""
        return [self._frame(telescope, row.path) for row in self._reference_rows.get((telescope, field), [])]

    def reference_wcs(self, telescope: str, field: str) -> list[str | None]:
        """Paths of the WCS header files of the same frames, None for a frame without one."""
        return [self._data(row.wcs) if row.wcs else None for row in self._reference_rows.get((telescope, field), [])]

    def folder(self, telescope: str) -> str | None:
        """Folder with True/ and False/ of a telescope with source: folders, otherwise None."""
        folder = self._telescopes[telescope].folder
        return self._data(folder) if folder and self._telescopes[telescope].source == "folders" else None

    def catalogue_file(self, telescope: str, key: str) -> str | None:
        """Sources of the star catalogue or of the known objects: paths of files and names of services, joined by +.

        Parameters
        ----------
        telescope : str
        key : {'catalogue', 'known'}
        """
        names = self._telescopes[telescope].sources(key)
        return "+".join(name if is_service(name) else self._data(name) for name in names) or None

    def asks_network(self, telescope: str) -> bool:
        """Whether the star catalogue or the known objects of a telescope come from a network service."""
        entry = self._telescopes[telescope]
        return any(map(is_service, [*entry.sources("catalogue"), *entry.sources("known")]))

    def knows_objects(self, telescope: str) -> bool:
        """Whether known variable stars and moving objects of a telescope are left out of False."""
        entry = self._telescopes[telescope]
        if entry.sky is not None:
            return entry.sky.variables + entry.sky.asteroids > 0
        return bool(entry.known)

    def stamps(self, paths: Iterable[str | None]) -> list[list[int] | None]:
        """Size [byte] and modification time [ns since 1970] of the user's files, None for files of the results.

        For a folder, these are the sums over its files.
        """
        return [_stamp(path) if path and not path.startswith("results/") else None for path in paths]

    def reference_stamps(self, telescope: str, field: str) -> list[list[int] | None]:
        """As `stamps`, for the frames from which the reference of a field is stacked and their WCS header files."""
        return self.stamps([*self.reference_frames(telescope, field), *self.reference_wcs(telescope, field)])

    def source_files(self, telescope: str, key: str) -> list[str]:
        """Paths of the files among the sources of `key` (catalogue or known)."""
        return [self._data(name) for name in self._telescopes[telescope].sources(key) if not is_service(name)]

    def _place(self, path: str) -> tuple[str, str | None]:
        """Identity of a frame: its file, with links resolved, and its extension."""
        file, extension = split_extension(self._data(path))
        return os.path.realpath(file), extension

    def check_rows(self, telescope: str) -> None:
        """Refuse a frame that is used for two images, or for an image and its reference.

        Copies of one frame could end up on both sides of the split, and the difference of a frame and itself is empty.

        Raises
        ------
        ConfigError
            Names the image and the file.
        """
        seen: dict[tuple[str, str | None], str] = {}
        for name in self._images[telescope]:
            row = self.sheet[telescope][name]
            place = self._place(row.path)
            if place in seen:
                raise ConfigError(f"image {name}: path: {row.path} is also the file of image {seen[place]}")
            seen[place] = name
            if row.reference and not row.reference.startswith(HIPS) and self._place(row.reference) == place:
                raise ConfigError(f"image {name}: reference: {row.reference} is the science image itself")

    def warnings(self, telescope: str) -> list[str]:
        """Probable mistakes in the image sheet: science frames that are part of their own reference."""
        if self._telescopes[telescope].source != "images":
            return []
        rows = [self.sheet[telescope][name] for name in self._images[telescope]]
        stacked = {
            (field, self._place(row.path))
            for (owner, field), frames in self._reference_rows.items()
            if owner == telescope
            for row in frames
        }
        shared = [row.image for row in rows if (row.field, self._place(row.path)) in stacked]
        if not shared:
            return []
        return [
            f"Telescope {telescope}: {len(shared)} of {len(rows)} science images are also stacked into their own "
            f"reference ({', '.join(shared[:3])}{', ...' * (len(shared) > 3)}), so that a transient in such a frame is "
            "partly subtracted from itself; stack the reference from other frames."
        ]

    def check_files(self) -> None:
        """Check that all files exist that the telescopes of the run and their rows of the image sheet name.

        Raises
        ------
        ConfigError, ImageError
            Names the first missing file.
        """
        for telescope in used_telescopes(self._config):
            for key in ("catalogue", "known"):
                for file in self.source_files(telescope, key):
                    if not Path(file).is_file():
                        raise ConfigError(f"telescope {telescope}: {key}: {file}: no such file")
            for name, row in self.sheet.get(telescope, {}).items():
                for key in ("path", "reference", "wcs"):
                    path = getattr(row, key)
                    if path and not path.startswith(HIPS) and not file_of(self._data(path)).is_file():
                        raise ImageError(name, key, f"{self._data(path)}: no such file")


def _stamp(path: str) -> list[int] | None:
    file = split_extension(path)[0]
    try:
        found = [entry.stat() for entry in file.rglob("*")] if file.is_dir() else [file.stat()]
    except OSError:  # the job that reads a missing file reports it
        return None
    return [sum(entry.st_size for entry in found), sum(entry.st_mtime_ns for entry in found)]


def used_telescopes(config: Config) -> list[str]:
    """Sorted names of the telescopes whose cubes a run makes."""
    return sorted({cube.split("/")[0] for cube in config.run.cubes})
