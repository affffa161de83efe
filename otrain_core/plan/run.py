"""One run of the workflow: its configuration, telescopes and sheets, checked together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otrain_core.errors import ConfigError
from otrain_core.plan.config import Config, CubeOptions, load_config
from otrain_core.plan.inputs import Inputs, used_telescopes
from otrain_core.plan.mosaics import expand_mosaics
from otrain_core.plan.pipelines import STEP_OPTIONS, Pipeline
from otrain_core.plan.pools import DRAWN
from otrain_core.plan.prior import draw_telescopes
from otrain_core.plan.recipe import STEPS, Recipe
from otrain_core.plan.sections import read_yaml
from otrain_core.plan.sheets import ImageRow, read_images, read_labels
from otrain_core.plan.studies import Studies
from otrain_core.plan.telescopes import Detector, Telescope, lay_over, read_telescopes
from otrain_core.programs import require_programs
from otrain_core.results import training_folder


class Run:
    """One run of the workflow: the checked configuration with its telescopes and sheets.

    Parameters
    ----------
    config : Config
    telescopes : dict of str to Telescope
    sheet : dict of str to dict of str to ImageRow
        Image sheet by telescope and image.

    Attributes
    ----------
    inputs : Inputs
        Images, references and catalogues.
    studies : Studies
        Sweeps, pools and their tables.
    drawn : dict of str to Drawn
        Random telescopes with their pipeline and set, by name.
    experiments : dict of str to Experiment
        Experiments of the configuration, and their variants in the sweeps.
    labels : str or None
        Path of the label sheet.
    """

    def __init__(self, config: Config, telescopes: dict[str, Telescope], sheet: dict[str, dict[str, ImageRow]]):
        self.config = config
        self.drawn = {item.telescope.name: item for item in draw_telescopes(config.draw)}
        for name in self.drawn:
            if name in telescopes:
                raise ConfigError(
                    f"draw.name: {config.draw.name!r}: a telescope {name} exists already; choose another name"
                )
        self.telescopes = telescopes | {name: item.telescope for name, item in self.drawn.items()}
        self.inputs = Inputs(config, self.telescopes, sheet, list(self.drawn))
        self.studies = Studies(config)
        self.labels: str | None = None
        # For the rules, the variants of a sweep are experiments like all others.
        self.experiments = config.experiments | self.studies.varied()

    @classmethod
    def from_config(cls, values: dict[str, Any], *, root: str | Path = ".", where: str = "config") -> Run:
        """Check a configuration, read its telescopes and sheets, and check that they are consistent.

        Parameters
        ----------
        values : dict
            Keys of the configuration.
        root : path-like
            Second place, after the working directory, where telescopes and sheets are searched for.
        where : str
            Name of the configuration, for errors.

        Raises
        ------
        ConfigError
            A key, a column or a combination of them is wrong.
        MissingProgramError
            A pipeline of the run needs an external program that is not installed.
        """
        config = load_config(values, where=where)
        telescopes = read_telescopes(_find(config.telescope_folder, root), config.telescopes)
        sheet = read_images(_find(config.images, root)) if config.images else {}
        sheet = expand_mosaics(sheet, config.data_root)
        for name in sheet:
            if name not in telescopes:
                raise ConfigError(
                    f"sheet {config.images}: telescope: {name!r} is not a telescope of this configuration"
                )
        for name in used_telescopes(config):
            if name not in telescopes:
                raise ConfigError(
                    f"run.cubes: telescope {name!r} is neither in {config.telescope_folder} nor under telescopes; "
                    f"choose one of {', '.join(sorted(telescopes))}"
                )
        run = cls(config, telescopes, sheet)
        if config.labels:
            run.labels = str(_find(config.labels, root))
            for row in read_labels(run.labels):
                if row["telescope"] not in telescopes:
                    raise ConfigError(
                        f"sheet {config.labels}: telescope: {row['telescope']!r} is not a telescope of this configuration"
                    )
        for name in run.used_telescopes():
            run._check_telescope(name)
        for cube in config.run.cubes:
            run._check_cube(*cube.split("/"))
        for name in config.draw.pipelines if config.draw.telescopes else ():
            require_programs({step: run.options("", name, step) for step in STEP_OPTIONS}, name=name)
        return run

    @classmethod
    def from_files(cls, paths: Sequence[str | Path]) -> Run:
        """Merge configuration files with the default of this clone, and check the result.

        Parameters
        ----------
        paths : sequence of path-like
            YAML files; later files override earlier ones.

        Raises
        ------
        ConfigError, MissingProgramError
            See `from_config`.
        """
        clone = Path(__file__).parents[2]
        default = clone / "config/config.yaml"  # not part of an installed package; the models have the same values
        values = read_yaml(default) if default.is_file() else Config().model_dump(mode="json")
        for path in paths:
            values = lay_over(values, read_yaml(path))
        return cls.from_config(values, root=clone, where=" + ".join(map(str, paths)) or "config")

    def _check_telescope(self, telescope: str) -> None:
        if self.telescopes[telescope].source != "images":
            return
        images, sheet = self.inputs.sheet.get(telescope, {}), self.config.images
        if not self.inputs.images(telescope):
            raise ConfigError(f"telescope {telescope}: no science image in the sheet of images (images: {sheet})")
        self.inputs.check_rows(telescope)
        fields = {image.field for image in images.values() if image.role == "reference"}
        for name in self.inputs.images(telescope):
            if images[name].field is not None and images[name].field not in fields:
                raise ConfigError(
                    f"image {name}: field: {images[name].field!r} has no row with role reference in sheet {sheet}"
                )

    def _check_cube(self, telescope: str, pipeline: str) -> None:
        """Check the programs and catalogues that a pipeline needs, and the size of its cutouts, before any work."""
        entry = self.telescopes[telescope]
        if entry.source == "folders":
            return
        side = self.options(telescope, pipeline, "cutouts")["size"]
        for key, size in self.studies.sizes(telescope, pipeline).items():
            if size and size > side:
                raise ConfigError(f"{key}: {size} px is larger than the cutouts of {telescope}/{pipeline} ({side} px)")
        steps = {step: self.options(telescope, pipeline, step) for step in STEP_OPTIONS}
        require_programs(steps, name=pipeline)
        finder = steps["detect"]["finder"]
        made = [f"{folder}/finder.onnx" for folder in self.finders()]
        if finder and finder not in made and not Path(finder).is_file():
            raise ConfigError(f"pipelines.{pipeline}.detect.finder: {finder}: no such file")
        if self.needs_catalogue(telescope, pipeline) and entry.source != "simulated" and not entry.catalogue:
            raise ConfigError(
                f"telescopes.{telescope}.catalogue: pipelines.{pipeline} needs a star catalogue (psf.astrometry, "
                "psf.photometry or detect.search); give a CSV file, gaia or panstarrs"
            )

    def drawn_cube(self) -> CubeOptions:
        """Options of the cube of all random telescopes."""
        share = max(self.config.draw.max_failed_fraction, self.config.cube.max_failed_fraction)
        return self.config.cube.model_copy(update={"max_failed_fraction": share})

    def drawn_trainings(self) -> list[str]:
        """Folders of the trainings on the cube of all random telescopes."""
        run = self.config.run
        return [
            f"results/{training_folder(DRAWN, experiment, seed)}"
            for experiment in run.experiments
            for seed in run.seeds
            if self.drawn
        ]

    def used_telescopes(self) -> list[str]:
        """Sorted names of the telescopes whose cubes the run makes, without the random telescopes."""
        return used_telescopes(self.config)

    def recipe(self, telescope: str, pipeline: str) -> dict[str, Any] | None:
        """Recipe of the cutouts of a cube, for its models; None for pools and for existing cutouts (source: folders)."""
        if f"{telescope}/{pipeline}" == DRAWN:
            return Recipe(Pipeline(), Detector(), telescope=telescope, name=pipeline).record()
        entry = self.telescopes.get(telescope)
        if entry is None or entry.source == "folders":
            return None
        steps = self.config.pipelines[pipeline]
        options = {step: steps.options(telescope, step) for step in STEPS}
        return Recipe(Pipeline(**options), entry.detector, telescope=telescope, name=pipeline).record()

    def options(self, telescope: str, pipeline: str, step: str) -> dict[str, Any]:
        """Options of one step of a pipeline for a telescope."""
        return self.config.pipelines[pipeline].options(telescope, step).model_dump()

    def needs_wcs(self, telescope: str, pipeline: str) -> bool:
        """Whether the pipeline needs a WCS."""
        align = self.options(telescope, pipeline, "subtract")["align"]
        return align in ("wcs", "swarp") or self.needs_catalogue(telescope, pipeline)

    def needs_catalogue(self, telescope: str, pipeline: str, step: str | None = None) -> bool:
        """Whether the pipeline, or one of its steps psf and detect, needs a star catalogue."""
        psf, detect = (self.options(telescope, pipeline, name) for name in ("psf", "detect"))
        needs = {
            "psf": psf["astrometry"] != "none" or psf["photometry"] == "catalogue",
            "detect": "catalogue" in detect["search"],
        }
        return any(needs.values()) if step is None else needs[step]

    def reads_catalogue(self, telescope: str, pipeline: str, step: str) -> bool:
        """Whether a step (psf or detect) reads the star catalogue.

        psf also reads a catalogue that is made for another purpose, to check the WCS.
        """
        made = self.needs_catalogue(telescope, pipeline) or self.inputs.knows_objects(telescope)
        at_hand = step == "psf" and bool(self.telescopes[telescope].catalogue) and made
        return at_hand or self.needs_catalogue(telescope, pipeline, step)

    def makes_sky(self, telescope: str) -> bool:
        """Whether a fused job makes the simulated sky and the catalogues of its images itself.

        It does so if no other pipeline of the run needs them, and if no network service is asked.
        """
        cubes = [cube for cube in self.config.run.cubes if cube.split("/")[0] == telescope]
        return telescope in self.drawn or (len(cubes) == 1 and not self.inputs.asks_network(telescope))

    def trainings(self, protocol: str | None = None) -> list[str]:
        """Folders of all trainings of the run, or of those with one protocol."""
        run = self.config.run
        return [
            f"results/{training_folder(cube, experiment, seed, name)}"
            for cube in run.cubes
            for experiment in run.experiments
            for seed in run.seeds
            for name in run.protocols
            if protocol in (None, name)
        ]

    def finders(self) -> list[str]:
        """Folders of all detector networks of the run."""
        run = self.config.run
        cubes = run.cubes if self.config.finder.train else []
        return [f"results/{training_folder(cube, 'finder', seed)}" for cube in cubes for seed in run.seeds]


def _find(path: str, root: str | Path) -> Path:
    return Path(path) if Path(path).is_absolute() or Path(path).exists() else Path(root) / path
