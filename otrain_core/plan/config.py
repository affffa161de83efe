"""The configuration: one typed model per section.

``python -m otrain_core.plan.config_docs`` generates the default YAML, the JSON schema and the tables of keys from it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from otrain_core.errors import ConfigError
from otrain_core.plan.archive import ArchiveOptions
from otrain_core.plan.finder import FinderOptions
from otrain_core.plan.pipelines import GMADET, STDPIPE, Pipeline
from otrain_core.plan.pools import is_pool
from otrain_core.plan.prior import DrawOptions
from otrain_core.plan.sections import Name, Section, check_extent, explain_first
from otrain_core.plan.telescopes import OLD_SHEET

Channel = Literal["difference", "science", "reference", "mask", "psf"]
Input = Literal[Channel, "pixel_scale", "seeing"]  # the last two are planes with one constant value
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # valid for both NumPy and Keras


class CubeOptions(Section):
    """The cube, i.e. the labelled cutouts of one telescope and one pipeline."""

    true_fraction: float | None = Field(
        0.5,
        gt=0,
        lt=1,
        description="fraction of True cutouts, reached by drawing from the more numerous class (null: keep all cutouts)",
    )
    max_cutouts: int | None = Field(
        None, ge=2, le=100_000_000, description="maximum number of cutouts, drawn at random (null: keep all)"
    )
    channels: list[Channel] = Field(
        ["difference", "science", "reference", "mask", "psf"], min_length=1, description="channels kept in the cube"
    )
    real_stars: bool = Field(
        False,
        description="also put the removed, transplanted and vanished stars into the cube for training; otherwise they are "
        "used for checks only",
    )
    min_per_class: int = Field(
        20, ge=1, le=1_000_000, description="a cube with fewer cutouts of either class is refused"
    )
    max_failed_fraction: float = Field(
        0.5, ge=0, le=1, description="a cube is refused if a larger fraction of its images failed"
    )


class SplitOptions(Section):
    """Split into train, validation and test sets by image and, if images share a field, by sector of the sky."""

    fractions: tuple[float, float, float] = Field(
        (0.6, 0.15, 0.25), description="fractions of the train, validation and test sets"
    )
    guard: float = Field(
        4.0,
        ge=0,
        le=1000,
        description="if images share a field: minimum distance between cutouts of different sets [seeing FWHM]",
    )

    @field_validator("fractions")
    @classmethod
    def _sum_is_one(cls, value):
        if min(value) <= 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("must be three positive fractions with a sum of 1")
        return value


Share = Annotated[float, Field(ge=0, le=1)]


class VaryInputs(Section):
    """Augmentation of the training cutouts to resemble those of other telescopes.

    Each key is the fraction of the cutouts that is changed, drawn anew in every epoch.
    """

    no_psf: Share = Field(0.0, description="remove the channel psf")
    wrong_psf: Share = Field(
        0.0, description="replace psf by a round Gaussian or Moffat profile of about the same width"
    )
    no_images: Share = Field(0.0, description="remove science and reference (in a fifth of the cases only one of them)")
    no_mask: Share = Field(0.0, description="set mask to 0 everywhere")
    pixels: Share = Field(
        0.0,
        description="applied separately: correlate the noise; add a background gradient; coarsen the digitisation; remove an "
        "edge, a border or a column; fill missing pixels with a number",
    )
    flux_scale: Share = Field(
        0.0, description="leave light of the reference in the difference, as with a wrong flux scale between the images"
    )

    @model_validator(mode="after")
    def _one_psf(self):
        if self.no_psf + self.wrong_psf > 1:
            raise ValueError("the sum of no_psf and wrong_psf must be at most 1")
        return self


class Experiment(Section):
    """A named training set-up."""

    model_config = ConfigDict(populate_by_name=True)  # ``from`` is a keyword in Python

    start: Literal["universal"] | None = Field(
        None,
        alias="from",
        description="fine-tune the shipped model (universal) with the options of section finetune; the weights change only "
        "as far as the labels show a gain. network, inputs and size are then those of the shipped model, and threshold is "
        "even by default (null: train from scratch)",
    )
    network: Literal["paper", "otrain2", "otrain3"] = Field(
        "otrain2",
        description="architecture; otrain3 (for many telescopes) also reads the point-source significance of every pixel, "
        "and science and reference in the units of the difference",
    )
    inputs: list[Input] = Field(
        ["difference", "psf"],
        min_length=1,
        description="input channels of the network; psf enters as the residual of a point-source fit to the difference, "
        "pixel_scale [arcsec/px] and seeing [px] as constant planes",
    )
    size: int | None = Field(
        None,
        ge=9,
        le=255,
        description="crop the cutouts to this side length around the candidate [px] (null: no cropping)",
    )
    normalise: Literal["none", "mad-asinh"] = Field(
        "mad-asinh",
        description="normalisation of each cutout and channel: none, or asinh((x - median) / MAD)",
    )
    augment: bool = Field(True, description="flip and rotate the training cutouts by multiples of 90 degrees at random")
    n_train: int | None = Field(
        None,
        ge=2,
        description="number of training cutouts, drawn at random from the train set (null, or more than there are: all)",
    )
    epochs: int = Field(24, ge=1, le=100_000, description="maximum number of epochs")
    batch_size: int = Field(128, ge=1, le=100_000, description="maximum number of cutouts per batch")
    min_batches: int = Field(
        32,
        ge=1,
        le=100_000,
        description="minimum number of batches per epoch: for few cutouts the batches are smaller (down to 16 cutouts), and "
        "an epoch passes over the cutouts several times",
    )
    min_train: int = Field(
        5, ge=1, le=1_000_000, description="minimum number of cutouts of each class in the train set"
    )
    vary_inputs: VaryInputs = Field(VaryInputs())
    learning_rate: float = Field(1e-3, gt=0, le=10, description="initial learning rate of Adam")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="learning-rate schedule")
    label_smoothing: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="label smoothing: fraction of the target that is spread over both classes (0.1: the target of True is 0.95)",
    )
    keep: Literal["best", "last"] = Field(
        "best", description="epoch whose weights are kept: lowest validation loss, or the last"
    )
    patience: int = Field(
        0,
        ge=0,
        le=100_000,
        description="stop after this many epochs without a lower validation loss (0: never)",
    )
    class_weights: bool = Field(True, description="weight the classes by their inverse frequency")
    precision: Literal["float32", "mixed_bfloat16"] = Field(
        "float32", description="precision of the layers; mixed_bfloat16 is faster on GPUs but slower on CPUs"
    )
    jit_compile: Literal["auto"] | bool = Field(
        "auto",
        description="compile with XLA (true, false), which is faster on GPUs but slower on CPUs; auto: only with JAX, as "
        "compiled trainings with TensorFlow are not exactly reproducible",
    )
    require_gpu: bool = Field(False, description="stop with an error if no GPU is found")
    threshold: Literal["gmean", "f1", "f1-mcc", "platt", "even", "few-false"] = Field(
        "platt",
        description="rule that sets the decision threshold on the validation set: gmean, f1 and f1-mcc maximise the g-mean, "
        "F1, or F1 + MCC; platt takes even odds on a fitted logistic curve, which depends less on the choice of validation "
        "images; few-false accepts 3 % of the False cutouts; even takes a score of 0.5, for fine-tuned networks, which are "
        "calibrated on their own labels",
    )

    @model_validator(mode="before")
    @classmethod
    def _even_odds_after_tuning(cls, values):
        if isinstance(values, dict) and (values.get("from") or values.get("start")) and "threshold" not in values:
            return {**values, "threshold": "even"}
        return values

    @property
    def varied(self) -> bool:
        """Whether `vary_inputs` changes any cutouts."""
        return any(self.vary_inputs.model_dump().values())

    @field_validator("inputs")
    @classmethod
    def _pixels_among_them(cls, value):
        if not set(value) & set(get_args(Channel)):
            raise ValueError(f"at least one of {', '.join(get_args(Channel))} is needed besides {', '.join(value)}")
        return value

    @model_validator(mode="after")
    def _psf_with_difference(self):
        if "psf" in self.inputs and ("difference" not in self.inputs or self.normalise != "mad-asinh"):
            raise ValueError("inputs: psf requires difference among the inputs, and normalise: mad-asinh")
        if self.network == "otrain3" and "psf" not in self.inputs:
            raise ValueError("network: otrain3 requires psf among the inputs")
        return self


PAPER_EXPERIMENT = Experiment(
    network="paper",
    inputs=["difference"],
    normalise="none",
    augment=False,
    epochs=30,
    batch_size=1024,
    min_batches=1,
    schedule="constant",
    label_smoothing=0.0,
    keep="last",
    patience=0,
    class_weights=False,
    threshold="f1-mcc",
)


class EvaluateOptions(Section):
    """Evaluation of the trained models, with confidence intervals."""

    bootstrap: int = Field(
        1000, ge=100, le=1_000_000, description="number of bootstrap samples (of whole images) for the intervals"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="confidence level of the intervals")
    stated_recall: float = Field(0.95, gt=0, lt=1, description="recall at which the false-positive rate is quoted")
    bins: int = Field(4, ge=2, le=1000, description="number of bins in magnitude, magnitude error and S/N")
    coverage: float = Field(
        0.95,
        gt=0,
        le=1,
        description="fraction of the candidates that is classified; the least certain ones stay undecided (abstention)",
    )


class ExplainOptions(Section):
    """Grad-CAM maps."""

    layer: str | None = Field(None, description="convolutional layer (null: the last one)")
    output: Literal["logit", "softmax"] = Field(
        "logit", description="output that is differentiated (softmax: as in the paper)"
    )
    n_cutouts: int = Field(
        8, ge=1, le=10_000, description="number of cutouts shown of each kind (correct and wrong, True and False)"
    )
    neighbour_sigma: float = Field(
        5.0, gt=0, description="significance above which a neighbour is removed, to test its influence on the score"
    )


class LabelNoiseOptions(Section):
    """Search for wrong labels (target `results/{telescope}/{pipeline}/{experiment}/label_noise/suspects.csv`)."""

    folds: int = Field(
        4, ge=2, le=100, description="cross-validation folds, by image, over train and validation; one training each"
    )
    n_cutouts: int = Field(12, ge=1, le=10_000, description="number of suspects of each class in the gallery")
    flip_fraction: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="fraction of labels flipped on purpose, to measure how many are found (0: no test; otherwise folds + 3 "
        "more trainings)",
    )


class GateOptions(Section):
    """Requirements on the test set for a model to become the champion of its telescope."""

    min_mcc: float = Field(
        0.7,
        ge=-1,
        lt=1,
        description="the MCC and the lower end of its interval must exceed this (Makhlouf et al. 2022, Sect. 6.1)",
    )
    max_fp: float = Field(
        0.05, ge=0, le=1, description="maximum number of false positives, as a fraction of the test set"
    )
    min_gain: float = Field(
        0.0,
        ge=-2,
        le=1,
        description="the gain in MCC over fixed cuts on S/N, FWHM and shape must exceed this, with its interval (-2: no "
        "requirement)",
    )
    min_gain_shipped: float = Field(
        0.0,
        ge=-2,
        le=1,
        description="the gain in MCC over the shipped model must exceed this, with its interval (-2: no requirement)",
    )
    min_images: int = Field(5, ge=1, description="minimum number of images in the test set")
    min_per_class: int = Field(
        50,
        ge=1,
        description="minimum number of True and of False in the test set (0 errors in 50 still allow a rate of 7 %)",
    )


class Sweep(Section):
    """A series of trainings that vary one option of the experiments: one training per value, cube and seed."""

    option: str = Field(description="option of the experiments to vary (size, n_train, normalise, ...)")
    values: list[int | float | str | list[Input]] = Field(min_length=1, description="values of the option")
    cubes: list[str] = Field([], description="cubes, as telescope/pipeline ([]: those of the run)")
    experiments: list[Name] = Field([], description="experiments to vary ([]: those of the run)")
    seeds: list[Seed] = Field([], description="seeds ([]: those of the run)")
    options: dict[str, Any] = Field({}, description="other options, with the same value in all trainings")

    def experiment(self, base: Experiment, value: Any) -> Experiment:
        """The experiment `base` with the option set to `value`."""
        return Experiment.model_validate(base.model_dump() | self.options | {self.option: value})


class StudyOptions(Section):
    """Studies of a run in addition to its trainings (protocol by-image)."""

    sweeps: dict[Name, Sweep] = Field(
        {},
        description="named sweeps over one option of the experiments (table `results/studies/{sweep}.csv`)",
    )

    experiments: list[Name] = Field(
        [], description="experiments used by transfer, pool and finetune ([]: those of the run)"
    )
    transfer: bool = Field(False, description="score every model on the test sets of all cubes of the run")
    pool: bool = Field(
        False,
        description="train one model on all telescopes of a pipeline (two or more) and score it as for transfer",
    )
    leave_one_out: bool = Field(
        False,
        description="train on all telescopes of a pipeline except one (three or more) and score as for transfer",
    )
    finetune: list[Annotated[int, Field(ge=2)]] = Field(
        [],
        description="numbers of labels for fine-tuning a model that was trained without the telescope ([]: no fine-tuning)",
    )
    finetune_from: Literal["pool", "universal"] = Field(
        "pool",
        description="model that is fine-tuned: the experiments trained on the other telescopes of the run (pool), or the "
        "shipped model (universal)",
    )
    label_noise: list[Name] = Field([], description="experiments used to search every cube for wrong labels ([]: none)")


class FinetuneOptions(Section):
    """Fine-tuning of a model on labels of another telescope."""

    learning_rate: float = Field(3e-4, gt=0, le=10, description="initial learning rate of Adam, with cosine decay")
    epochs: int = Field(20, ge=1, le=100_000, description="number of epochs; the weights of the last are kept")
    batch_size: int = Field(16, ge=1, le=100_000, description="cutouts per batch")
    batch_norm: Literal["frozen", "trained"] = Field(
        "frozen", description="keep the batch normalisation of the original model, or train it with the other layers"
    )
    folds: int = Field(4, ge=2, le=20, description="cross-validation folds, by image, that select one of steps")
    steps: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.25, 0.5, 0.75, 1.0],
        min_length=1,
        description="interpolation steps tried between the original weights (0) and the fine-tuned ones (1); the original "
        "weights are kept if cross-validation shows no gain",
    )
    pull: float = Field(
        0.5,
        gt=0,
        le=10,
        description="width of the prior on the log odds around those of the original model; with few labels, a smaller value "
        "keeps the probabilities closer to the original ones [nat]",
    )


class RunOptions(Section):
    """Contents of one run."""

    cubes: list[str] = Field(["demo/builtin"], description="cubes to build, as telescope/pipeline")
    experiments: list[Name] = Field(
        ["paper", "otrain2"], min_length=1, description="experiments to train on every cube"
    )
    seeds: list[Seed] = Field([1], min_length=1, description="random seeds; one training per seed")
    max_images: int | None = Field(
        None, ge=1, description="use only the first max_images science images of each telescope (null: all)"
    )
    fused: bool = Field(
        False,
        description="run all steps of an image in one job and one process: the same cutouts in less time, with fewer files",
    )
    images_per_job: int = Field(
        1,
        ge=1,
        le=10_000,
        description="number of images that one job processes in turn (only with fused; increase it for small images)",
    )
    protocols: list[Literal["by-image", "random"]] = Field(
        ["by-image"],
        min_length=1,
        description="by-image: split by image, with the threshold from the validation set and the scores from the test "
        "set; random: 85/15 split by cutout, with the threshold set on the scored cutouts, as in the paper",
    )

    @field_validator("cubes")
    @classmethod
    def _two_names(cls, value):
        for item in value:
            if item.count("/") != 1 or not all(item.split("/")):
                raise ValueError(f"{item!r} is not of the form telescope/pipeline")
        return value

    @field_validator("cubes", "experiments", "seeds", "protocols")
    @classmethod
    def _each_once(cls, value):
        twice = sorted({item for item in value if value.count(item) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} is listed twice")
        return value


class Config(Section):
    """All keys of a configuration. Paths are relative to the working directory."""

    telescope_folder: str = Field("config/telescopes", description="folder with one file NAME.yaml per telescope")
    telescopes: dict[Name, dict[str, Any]] = Field(
        {}, description="telescopes by name; their keys override those of the files in telescope_folder"
    )
    images: str | None = Field(None, description="sheet of the real images (of telescopes with source: images)")
    labels: str | None = Field(
        None,
        description="sheet of labels made by hand (otrain label); they override the labels of crossmatch in the cube",
    )
    data_root: str = Field(".", description="folder to which the paths in the sheets are relative")
    seed: Seed = Field(1, description="random seed of all steps before training")
    run: RunOptions = RunOptions()
    pipelines: dict[Name, Pipeline] = Field(
        {"builtin": Pipeline(), "gmadet": GMADET, "stdpipe": STDPIPE},
        description="Named pipelines: back ends and options of all steps.",
    )
    cube: CubeOptions = CubeOptions()
    split: SplitOptions = SplitOptions()
    experiments: dict[Name, Experiment] = Field(
        {
            "paper": PAPER_EXPERIMENT,
            "paper-normalised": PAPER_EXPERIMENT.model_copy(update={"normalise": "mad-asinh"}),
            "otrain2": Experiment(),
            "otrain2-difference": Experiment(inputs=["difference"]),
            "fine-tuned": Experiment(start="universal"),
        },
        description="Named training set-ups. paper-normalised and otrain2-difference show the effect of single changes "
        "between paper and otrain2; fine-tuned starts from the shipped model.",
    )
    evaluate: EvaluateOptions = EvaluateOptions()
    explain: ExplainOptions = ExplainOptions()
    label_noise: LabelNoiseOptions = LabelNoiseOptions()
    gate: GateOptions = GateOptions()
    studies: StudyOptions = StudyOptions()
    draw: DrawOptions = Field(DrawOptions(), description="random telescopes (target universal)")
    finetune: FinetuneOptions = FinetuneOptions()
    finder: FinderOptions = FinderOptions()
    archive: ArchiveOptions = ArchiveOptions()

    @field_validator("telescopes", mode="before")
    @classmethod
    def _entries_not_a_sheet(cls, value):
        if isinstance(value, str):
            raise ValueError(OLD_SHEET)
        return value

    @model_validator(mode="after")
    def _names_exist(self):
        for item in self.run.cubes:
            telescope, pipeline = item.split("/")
            if is_pool(telescope):
                raise ValueError(f"run.cubes: {telescope!r} is reserved for a pool of telescopes (see studies)")
            if pipeline not in self.pipelines:
                raise ValueError(
                    f"run.cubes: unknown pipeline {pipeline!r}; pipelines defines {', '.join(sorted(self.pipelines))}"
                )
        for kind in ("pipelines", "experiments"):
            for name in getattr(self, kind):
                if name in ("images", "sky"):
                    raise ValueError(f"{kind}: {name!r} is reserved for a folder of the results; choose another name")
                if name in ("universal", "fixed-cuts"):
                    raise ValueError(
                        f"{kind}: {name!r} is reserved for the shipped model and the fixed cuts; choose another name"
                    )
        named = {"run.experiments": self.run.experiments}
        if self.draw.telescopes:
            for name in self.draw.pipelines:
                if name not in self.pipelines:
                    raise ValueError(
                        f"draw.pipelines: unknown pipeline {name!r}; pipelines defines {', '.join(sorted(self.pipelines))}"
                    )
        named |= {f"studies.{key}": getattr(self.studies, key) for key in ("experiments", "label_noise")}
        named |= {f"studies.sweeps.{key}.experiments": sweep.experiments for key, sweep in self.studies.sweeps.items()}
        for key, names in named.items():
            for name in names:
                if name not in self.experiments:
                    raise ValueError(
                        f"{key}: unknown experiment {name!r}; experiments defines {', '.join(sorted(self.experiments))}"
                    )
        for key, sweep in self.studies.sweeps.items():
            for cube in sweep.cubes:
                if cube not in self.run.cubes:
                    raise ValueError(f"studies.sweeps.{key}.cubes: {cube!r} is not in run.cubes")
        return self


def load_config(values: dict[str, Any], *, where: str = "config") -> Config:
    """Check a nested dictionary of keys.

    Parameters
    ----------
    values : dict
        Keys of a configuration; missing keys have their defaults.
    where : str
        Name of the configuration, for errors.

    Raises
    ------
    ConfigError
        Invalid key or value; the message names the key, the value and what is allowed.
    """
    check_extent(values, where=where)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain_first(error, where)) from None
