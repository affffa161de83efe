"""What one run of the workflow is made of: configuration and sheets, checked together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otrain_core.errors import ConfigError, ImageError
from otrain_core.plan.config import Config, load_config
from otrain_core.plan.pipelines import STEP_OPTIONS
from otrain_core.plan.pools import plan_pools, source_without
from otrain_core.plan.sheets import ImageRow, read_images, read_labels
from otrain_core.plan.sweeps import plan_sweep
from otrain_core.plan.telescopes import Telescope, read_telescopes
from otrain_core.programs import require_programs

HIPS = "hips:"  # a reference that begins so is fetched from a survey
NETWORK_CATALOGUES = ("gaia", "panstarrs")
NETWORK_KNOWN = ("vsx", "skybot")
TAILS = {"grouped": "", "paper": "/random_split"}  # of the folder of a training, by protocol


class Run:
    """What one run of the workflow is made of: the checked configuration and its sheets.

    Parameters
    ----------
    config : Config
    telescopes : dict of str to Telescope
    sheet : dict of str to dict of str to ImageRow
        Image sheet by telescope and image.

    Attributes
    ----------
    experiments : dict of str to Experiment
        Those of the configuration, and those that its sweeps make of them.
    labels : str or None
        Path of the label sheet.
    """

    def __init__(self, config: Config, telescopes: dict[str, Telescope], sheet: dict[str, dict[str, ImageRow]]):
        self.config = config
        self.telescopes = telescopes
        self.sheet = sheet
        self._images = {name: self._science_images(name) for name in self.used_telescopes()}
        # Looked up for every image: a search through the sheet each time would cost the square of its length.
        self._numbers = {name: {image: k for k, image in enumerate(images)} for name, images in self._images.items()}
        self._reference_rows: dict[tuple[str, str], list[ImageRow]] = {}
        for telescope, images in sheet.items():
            for row in images.values():
                if row.role == "reference":
                    self._reference_rows.setdefault((telescope, row.field), []).append(row)
        self.labels: str | None = None
        self._sweeps = {name: plan_sweep(config, name) for name in config.studies.sweeps}
        # The rules know the trainings of a study as experiments like all others.
        varied = {row["trained"]: row["options"] for rows in self._sweeps.values() for row in rows}
        self.experiments = config.experiments | varied

    @classmethod
    def from_config(cls, values: dict[str, Any], *, root: str | Path = ".") -> Run:
        """Check a configuration, read its sheets and check that they fit together.

        Sheets are looked for in the working directory, then in `root`.

        Raises
        ------
        ConfigError
            A key, a column or a combination of them is wrong.
        MissingProgramError
            A pipeline of the run needs an external program that is not installed.
        """
        config = load_config(values)
        telescopes = read_telescopes(_find(config.telescope_folder, root), config.telescopes)
        sheet = read_images(_find(config.images, root)) if config.images else {}
        for name in sheet:
            if name not in telescopes:
                raise ConfigError(f"sheet {config.images}: telescope: {name!r} is no telescope of this configuration")
        for cube in config.run.cubes:
            name = cube.split("/")[0]
            if name not in telescopes:
                raise ConfigError(
                    f"run.cubes: telescope {name!r} is neither in {config.telescope_folder} nor under telescopes; "
                    f"there are {sorted(telescopes)}"
                )
        run = cls(config, telescopes, sheet)
        if config.labels:
            run.labels = str(_find(config.labels, root))
            for row in read_labels(run.labels):
                if row["telescope"] not in telescopes:
                    raise ConfigError(
                        f"sheet {config.labels}: telescope: {row['telescope']!r} is no telescope of this configuration"
                    )
        for name in run.used_telescopes():
            run._check_telescope(name)
        for cube in config.run.cubes:
            run._check_cube(*cube.split("/"))
        return run

    @classmethod
    def from_files(cls, paths: Sequence[str | Path]) -> Run:
        """Check configuration files, laid over each other and over the default of this clone.

        Raises
        ------
        ConfigError, MissingProgramError
            As `from_config`.
        """
        import yaml
        from snakemake.utils import update_config

        clone = Path(__file__).parents[2]
        values = yaml.safe_load((clone / "config/config.yaml").read_text())
        for path in paths:
            update_config(values, yaml.safe_load(Path(path).read_text()) or {})
        return cls.from_config(values, root=clone)

    def used_telescopes(self) -> list[str]:
        return sorted({cube.split("/")[0] for cube in self.config.run.cubes})

    def _science_images(self, telescope: str) -> list[str]:
        row = self.telescopes[telescope]
        if row.sky is not None:
            names = [f"sim{number:04d}" for number in range(1, row.sky.n_images + 1)]
        elif row.source == "folders":
            names = []
        else:
            names = [name for name, image in self.sheet.get(telescope, {}).items() if image.role == "science"]
        return names[: self.config.run.max_images]

    def _check_telescope(self, telescope: str) -> None:
        row = self.telescopes[telescope]
        images = self.sheet.get(telescope, {})
        if row.source != "images":
            return
        if not self._images[telescope]:
            raise ConfigError(f"telescope {telescope}: no science image in the sheet of images ({self.config.images})")
        fields = {image.field for image in images.values() if image.role == "reference"}
        for name in self._images[telescope]:
            if images[name].field is not None and images[name].field not in fields:
                raise ConfigError(
                    f"image {name}: field: {images[name].field!r} has no row with role reference in {self.config.images}"
                )

    def _check_cube(self, telescope: str, pipeline: str) -> None:
        """Programs and catalogues that a pipeline needs, and the size that is asked of its cutouts, before any work."""
        row = self.telescopes[telescope]
        if row.source == "folders":
            return
        side = self.options(telescope, pipeline, "cutouts")["size"]
        named = {*self.config.run.experiments, *self.config.studies.experiments, *self.config.studies.label_noise}
        wanted = {f"experiments.{name}.size": self.config.experiments[name].size for name in sorted(named)}
        for name, rows in self._sweeps.items():
            mine = [row for row in rows if row["folder"].startswith(f"{telescope}/{pipeline}/")]
            wanted |= {f"studies.sweeps.{name} ({row['trained']})": row["options"].size for row in mine}
        for key, size in wanted.items():
            if size and size > side:
                raise ConfigError(f"{key}: {size} px, but the cutouts of {telescope}/{pipeline} have {side} px")
        steps = {step: self.options(telescope, pipeline, step) for step in STEP_OPTIONS}
        require_programs(steps, name=pipeline)
        if self.needs_catalogue(telescope, pipeline) and row.source != "simulated" and not row.catalogue:
            raise ConfigError(
                f"pipelines.{pipeline} needs a star catalogue (psf.astrometry, psf.photometry or detect.search), and "
                f"telescopes.{telescope}.catalogue is not given; give a CSV file, gaia or panstarrs"
            )

    def check_files(self) -> None:
        """Look for every file that the image sheet names for the telescopes of the run.

        Raises
        ------
        ConfigError, ImageError
            The first file that is not there.
        """
        for telescope in self.used_telescopes():
            for column in ("catalogue", "known"):
                for name in self._sources(telescope, column):
                    if not is_service(name) and not Path(self._data(name)).is_file():
                        raise ConfigError(f"telescope {telescope}: {column}: {self._data(name)}: no such file")
            for name, image in self.sheet.get(telescope, {}).items():
                for key in ("path", "reference", "wcs"):
                    path = getattr(image, key)
                    if path and not path.startswith(HIPS) and not Path(self._data(path)).is_file():
                        raise ImageError(name, key, f"{self._data(path)}: no such file")

    def _data(self, path: str) -> str:
        return str(Path(self.config.data_root) / path)

    def images(self, telescope: str) -> list[str]:
        """Names of the science images of a telescope, sorted."""
        return self._images[telescope]

    def number(self, telescope: str, image: str) -> int:
        """Place of a science image among those of its telescope, from 0."""
        return self._numbers[telescope][image]

    def simulated(self, telescope: str) -> dict[str, Any]:
        """Entry of a simulated telescope, less what does not change the pixels of an image."""
        return self.telescopes[telescope].model_dump(
            exclude={"assumptions": True, "folder": True, "catalogue": True, "known": True, "sky": {"n_images"}}
        )

    def science(self, telescope: str, image: str) -> str:
        """Path of a science image as it came."""
        if self.telescopes[telescope].source == "simulated":
            return f"results/{telescope}/sky/{image}/science.fits"
        return self._data(self.sheet[telescope][image].path)

    def reference(self, telescope: str, image: str) -> str:
        """Path of the reference of a science image."""
        if self.telescopes[telescope].source == "simulated":
            return f"results/{telescope}/sky/{image}/reference.fits"
        row = self.sheet[telescope][image]
        if row.reference and row.reference.startswith(HIPS):
            return f"results/{telescope}/sky/{image}.survey.fits"
        return self._data(row.reference) if row.reference else f"results/{telescope}/sky/{row.field}.reference.fits"

    def hips(self, telescope: str, image: str) -> str:
        """Name of the survey (HiPS) from which the reference of a science image is fetched."""
        return (self.sheet[telescope][image].reference or "").removeprefix(HIPS)

    def wcs(self, telescope: str, image: str) -> str | None:
        """Path of the WCS header of a science image, None where it has none of its own."""
        row = self.sheet.get(telescope, {}).get(image)
        return self._data(row.wcs) if row is not None and row.wcs else None

    def reference_frames(self, telescope: str, field: str) -> list[str]:
        """Paths of the frames from which the reference of a field is stacked."""
        return [self._data(row.path) for row in self._reference_rows.get((telescope, field), [])]

    def reference_wcs(self, telescope: str, field: str) -> list[str | None]:
        """WCS headers of the same frames, None where a frame has none of its own."""
        return [self._data(row.wcs) if row.wcs else None for row in self._reference_rows.get((telescope, field), [])]

    def folder(self, telescope: str) -> str | None:
        """Folder that holds True/ and False/, for a telescope with source folders."""
        row = self.telescopes[telescope]
        return self._data(row.folder) if row.source == "folders" else None

    def options(self, telescope: str, pipeline: str, step: str) -> dict[str, Any]:
        """Options of one step of a pipeline for a telescope."""
        return self.config.pipelines[pipeline].options(telescope, step).model_dump()

    def needs_wcs(self, telescope: str, pipeline: str) -> bool:
        """Whether the pipeline cannot work without a WCS."""
        align = self.options(telescope, pipeline, "subtract")["align"]
        return align in ("wcs", "swarp") or self.needs_catalogue(telescope, pipeline)

    def _uses(self, telescope: str, pipeline: str) -> tuple[bool, bool]:
        psf, detect = (self.options(telescope, pipeline, step) for step in ("psf", "detect"))
        return psf["astrometry"] != "none" or psf["photometry"] == "catalogue", "catalogue" in detect["search"]

    def needs_catalogue(self, telescope: str, pipeline: str, step: str | None = None) -> bool:
        """Whether the pipeline, or its step psf or detect, needs a star catalogue."""
        psf, detect = self._uses(telescope, pipeline)
        return {None: psf or detect, "psf": psf, "detect": detect}[step]

    def knows_objects(self, telescope: str) -> bool:
        """Whether known variables and moving objects are taken out of the False of a telescope."""
        row = self.telescopes[telescope]
        if row.sky is not None:
            return row.sky.variables + row.sky.asteroids > 0
        return bool(row.known)

    def catalogue_file(self, telescope: str, column: str) -> str | None:
        """Source of the star catalogue or of the known objects: files and names of services, joined by +.

        `column` is catalogue or known of the telescope; files are relative to data_root.
        """
        names = self._sources(telescope, column)
        return "+".join(name if is_service(name) else self._data(name) for name in names) or None

    def _sources(self, telescope: str, column: str) -> list[str]:
        return [name.strip() for name in (getattr(self.telescopes[telescope], column) or "").split("+") if name.strip()]

    def asks_network(self, telescope: str) -> bool:
        """Whether the star catalogue or the known objects of a telescope come from network services."""
        names = [name for column in ("catalogue", "known") for name in self._sources(telescope, column)]
        return any(map(is_service, names))

    def trainings(self, protocol: str | None = None) -> list[str]:
        """Folders of all trainings of the run, or of those under one protocol."""
        return [
            f"results/{cube}/{experiment}/seed{seed}{TAILS[name]}"
            for cube in self.config.run.cubes
            for experiment in self.config.run.experiments
            for seed in self.config.run.seeds
            for name in self.config.run.protocols
            if protocol in (None, name)
        ]

    def pools(self) -> dict[str, list[str]]:
        """Pools that the studies train on, with the cubes that each is made of."""
        studies, cubes = self.config.studies, self.config.run.cubes
        planned = plan_pools(cubes, pooled=studies.pool, leave_one_out=studies.leave_one_out)
        sources = {source_without(cube, cubes) for cube in cubes} if studies.finetune else set()
        return planned | {name: members for name, members in plan_pools(cubes).items() if name in sources}

    def pool_members(self, telescope: str, pipeline: str) -> list[str]:
        """Cubes that a pool is made of."""
        return plan_pools(self.config.run.cubes).get(f"{telescope}/{pipeline}", [])

    def finetune_source(self, telescope: str, pipeline: str) -> str | None:
        """Cube whose models have never seen a telescope, to start fine-tuning from."""
        return source_without(f"{telescope}/{pipeline}", self.config.run.cubes)

    def trained_channels(self) -> list[str]:
        """Channels that the experiments of the studies read, for pools that hold no others."""
        read = {name for key in self._moved_experiments() for name in self.config.experiments[key].inputs}
        return [name for name in self.config.cube.channels if name in read]

    def sweep(self, name: str) -> list[dict[str, Any]]:
        """Trainings of a study, see `otrain_core.studies.sweep.plan_sweep`; the options left out."""
        return [{key: row[key] for key in row if key != "options"} for row in self._sweeps[name]]

    def study_options(self) -> dict[str, Any]:
        """Intervals, and the guard distance by which a test cutout must be away from those of the training."""
        evaluate = self.config.evaluate
        return {
            "bootstrap": evaluate.bootstrap,
            "confidence": evaluate.confidence,
            "guard": self.config.split.guard,
        }

    def study_tables(self) -> list[str]:
        """Tables of the studies: transfer.csv, finetune.csv and suspects.csv."""
        run, studies = self.config.run, self.config.studies
        transferred = (run.cubes if studies.transfer else []) + list(self.pools())
        tuned = [cube for cube in run.cubes if studies.finetune and self.finetune_source(*cube.split("/"))]
        moved = [
            f"results/{cube}/{experiment}/seed{seed}/{name}.csv"
            for name, cubes in (("transfer", transferred), ("finetune", tuned))
            for cube in cubes
            for experiment in self._moved_experiments()
            for seed in run.seeds
        ]
        return moved + [
            f"results/{cube}/{experiment}/label_noise/suspects.csv"
            for cube in run.cubes
            for experiment in studies.label_noise
        ]

    def _moved_experiments(self) -> list[str]:
        return self.config.studies.experiments or self.config.run.experiments


def is_service(name: str) -> bool:
    """Whether a source of a catalogue is a network service, not a file."""
    return name.split(":")[0] in (*NETWORK_CATALOGUES, *NETWORK_KNOWN)


def _find(path: str, root: str | Path) -> Path:
    return Path(path) if Path(path).is_absolute() or Path(path).exists() else Path(root) / path
