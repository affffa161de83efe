"""The configuration: one typed model per section, from which the default YAML,
the JSON schema and the table of keys are generated (``python -m otrain_core.plan.config_docs``).
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
Input = Literal[Channel, "pixel_scale", "seeing"]  # the last two are planes of one number
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what the generators of NumPy and Keras both take


class CubeOptions(Section):
    """The cube of a telescope under a pipeline."""

    true_fraction: float | None = Field(
        0.5, gt=0, lt=1, description="share of True cutouts, drawn at random from the larger class (null: keep all)"
    )
    max_cutouts: int | None = Field(
        None, ge=2, le=100_000_000, description="keep at most this many cutouts, drawn at random"
    )
    channels: list[Channel] = Field(
        ["difference", "science", "reference", "mask", "psf"], min_length=1, description="channels kept in the cube"
    )
    real_stars: bool = Field(
        False,
        description="real stars (removed, transplanted, vanished) join the cube and train; otherwise they only check",
    )
    min_per_class: int = Field(20, ge=1, le=1_000_000, description="with fewer cutouts of a class the cube is refused")
    max_failed_fraction: float = Field(
        0.5, ge=0, le=1, description="with a larger share of failed images the cube is refused"
    )


class SplitOptions(Section):
    """Train, validation and test, dealt by image and, where images share a field, by sector of the sky."""

    fractions: tuple[float, float, float] = Field((0.6, 0.15, 0.25), description="shares of train, validation and test")
    guard: float = Field(
        4.0,
        ge=0,
        le=1000,
        description="where images share a field: distance kept from every cutout of another set [seeing FWHM]",
    )

    @field_validator("fractions")
    @classmethod
    def _sum_is_one(cls, value):
        if min(value) <= 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("three positive shares that add up to 1 are needed")
        return value


Share = Annotated[float, Field(ge=0, le=1)]


class VaryInputs(Section):
    """Cutouts in training as other telescopes give them, drawn anew in every epoch; each key is a share of the cutouts."""

    no_psf: Share = Field(0.0, description="the channel psf is missing")
    wrong_psf: Share = Field(0.0, description="psf is a round Gaussian or Moffat profile of about its width")
    no_images: Share = Field(0.0, description="science and reference are missing, or, in a fifth of these, one of them")
    no_mask: Share = Field(0.0, description="mask is 0 everywhere")
    pixels: Share = Field(
        0.0,
        description="each of: noise correlated; background sloping; coarse units; an edge, a rim or a column missing; "
        "missing pixels filled with a number",
    )
    flux_scale: Share = Field(
        0.0, description="light of the reference is left in the difference, as where the flux scale of the two is wrong"
    )

    @model_validator(mode="after")
    def _one_psf(self):
        if self.no_psf + self.wrong_psf > 1:
            raise ValueError("no_psf and wrong_psf are shares of the same cutouts: together at most 1")
        return self


class Experiment(Section):
    """A named training set-up."""

    model_config = ConfigDict(populate_by_name=True)  # in Python ``from`` is no name

    start: Literal["universal"] | None = Field(
        None,
        alias="from",
        description="fine-tune the shipped model, universal, as far as the labels show a gain (section finetune says how); "
        "network, inputs and size are then its own, and threshold is even (null: train anew)",
    )
    network: Literal["paper", "otrain2", "otrain3"] = Field(
        "otrain2",
        description="architecture; otrain3 (for many telescopes) also reads the significance of a point source at every "
        "pixel, and science and reference in the unit of the difference",
    )
    inputs: list[Input] = Field(
        ["difference", "psf"],
        min_length=1,
        description="channels given to the network; psf enters as what the difference holds beyond a point source, "
        "pixel_scale [arcsec/px] and seeing [px] as planes of one number",
    )
    size: int | None = Field(
        None, ge=9, le=255, description="cutouts are cropped to this side about the candidate (null: as in the cube)"
    )
    normalise: Literal["none", "mad-asinh"] = Field(
        "mad-asinh",
        description="input stage: raw values, or (x - median) / MAD compressed by asinh, per cutout and channel",
    )
    augment: bool = Field(True, description="random flips and quarter turns of the training cutouts")
    n_train: int | None = Field(
        None,
        ge=2,
        description="train on so many cutouts, drawn at random from the set train (null: on all; at most all)",
    )
    epochs: int = Field(24, ge=1, le=100_000, description="epochs at most")
    batch_size: int = Field(128, ge=1, le=100_000, description="cutouts per batch at most")
    min_batches: int = Field(
        32,
        ge=1,
        le=100_000,
        description="batches in an epoch at least: of few cutouts the batches are smaller, down to 16 cutouts, and an "
        "epoch passes them several times",
    )
    min_train: int = Field(
        5, ge=1, le=1_000_000, description="cutouts of each class in train, without which nothing is trained"
    )
    vary_inputs: VaryInputs = Field(VaryInputs())
    learning_rate: float = Field(1e-3, gt=0, le=10, description="Adam's (first) learning rate")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="learning-rate schedule")
    label_smoothing: float = Field(
        0.05, ge=0, lt=1, description="share of the target spread over both classes (0.1: a True is to score 0.95)"
    )
    keep: Literal["best", "last"] = Field("best", description="epoch that is kept, by the loss on the validation set")
    patience: int = Field(
        0,
        ge=0,
        le=100_000,
        description="stop after so many epochs without a better loss on the validation set (0: never)",
    )
    class_weights: bool = Field(True, description="weigh the classes by their inverse frequency")
    precision: Literal["float32", "mixed_bfloat16"] = Field(
        "float32", description="of the layers; mixed_bfloat16 is for GPUs, on a CPU it takes longer"
    )
    jit_compile: Literal["auto"] | bool = Field(
        "auto",
        description="compile with XLA (true, false); for GPUs, on a CPU it takes longer. auto: under JAX only, as under "
        "TensorFlow a training then need not repeat exactly",
    )
    require_gpu: bool = Field(False, description="refuse to train where no GPU is seen")
    threshold: Literal["gmean", "f1", "f1-mcc", "platt", "even", "few-false"] = Field(
        "platt",
        description="rule that sets the decision threshold on the validation set: the highest g-mean, F1 or F1 + MCC, or "
        "even odds on a fitted logistic curve (platt), which depends less on which images are in it; few-false lets 3 % of the False of the validation set pass; even takes a score of 0.5, "
        "for a fine-tuned network, whose odds its own labels have set",
    )

    @model_validator(mode="before")
    @classmethod
    def _even_odds_after_tuning(cls, values):
        if isinstance(values, dict) and (values.get("from") or values.get("start")) and "threshold" not in values:
            return {**values, "threshold": "even"}
        return values

    @property
    def varied(self) -> bool:
        """Whether the cutouts differ from epoch to epoch by more than their turns."""
        return any(self.vary_inputs.model_dump().values())

    @field_validator("inputs")
    @classmethod
    def _pixels_among_them(cls, value):
        if not set(value) & set(get_args(Channel)):
            raise ValueError(f"at least one of {', '.join(get_args(Channel))} is needed beside {', '.join(value)}")
        return value

    @model_validator(mode="after")
    def _psf_with_difference(self):
        if "psf" in self.inputs and ("difference" not in self.inputs or self.normalise != "mad-asinh"):
            raise ValueError("inputs: psf needs difference beside it, and normalise: mad-asinh")
        if self.network == "otrain3" and "psf" not in self.inputs:
            raise ValueError("network: otrain3 needs psf among the inputs")
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
    """Scores with their intervals."""

    bootstrap: int = Field(
        1000, ge=100, le=1_000_000, description="bootstrap draws, of whole images, behind every interval"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="confidence of the intervals")
    stated_recall: float = Field(0.95, gt=0, lt=1, description="recall at which the false-positive rate is quoted")
    bins: int = Field(4, ge=2, le=1000, description="bins of magnitude, magnitude error and S/N")
    coverage: float = Field(
        0.95,
        gt=0,
        le=1,
        description="share of the candidates that is decided; the least certain ones are left open (abstention)",
    )


class ExplainOptions(Section):
    """Grad-CAM maps."""

    layer: str | None = Field(None, description="convolution layer (null: the last one)")
    output: Literal["logit", "softmax"] = Field(
        "logit", description="what is differentiated (softmax: as in the paper)"
    )
    n_cutouts: int = Field(
        8, ge=1, le=10_000, description="cutouts shown of each kind (right and wrong, True and False)"
    )
    neighbour_sigma: float = Field(5.0, gt=0, description="significance of a neighbour that is taken out as a test")


class LabelNoiseOptions(Section):
    """Suspected wrong labels (target `results/{telescope}/{pipeline}/{experiment}/label_noise/suspects.csv`)."""

    folds: int = Field(4, ge=2, le=100, description="folds by image over train and validation; one training each")
    n_cutouts: int = Field(12, ge=1, le=10_000, description="suspects of each class in the gallery")
    flip_fraction: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="share of labels flipped on purpose to measure how many are found (0: no trial; else folds + 3 more trainings)",
    )


class GateOptions(Section):
    """What a model must reach on test to become the champion of its telescope."""

    min_mcc: float = Field(
        0.7,
        ge=-1,
        lt=1,
        description="MCC, and the lower end of its interval, must exceed this (Makhlouf et al. 2022, Sect. 6.1)",
    )
    max_fp: float = Field(
        0.05, ge=0, le=1, description="false positives as a share of the test set must not exceed this"
    )
    min_gain: float = Field(
        0.0,
        ge=-2,
        le=1,
        description="MCC above that of fixed cuts on S/N, FWHM and shape, with its interval, must exceed this (-2: any will do)",
    )
    min_gain_shipped: float = Field(
        0.0,
        ge=-2,
        le=1,
        description="MCC above that of the shipped model, with its interval, must exceed this (-2: any will do)",
    )
    min_images: int = Field(5, ge=1, description="images of the test set at least")
    min_per_class: int = Field(
        50, ge=1, description="True and False of the test set at least, each (0 of 50 leaves a rate of 7 % open)"
    )


class Sweep(Section):
    """One option of the experiments run through a list of values, one training for each value, cube and seed."""

    option: str = Field(description="option of an experiment that is varied (size, n_train, normalise, ...)")
    values: list[int | float | str | list[Input]] = Field(min_length=1, description="what it is set to")
    cubes: list[str] = Field([], description="cubes, as telescope/pipeline ([]: those of the run)")
    experiments: list[Name] = Field([], description="experiments that are varied ([]: those of the run)")
    seeds: list[Seed] = Field([], description="seeds ([]: those of the run)")
    options: dict[str, Any] = Field({}, description="other options, set to the same value throughout")

    def experiment(self, base: Experiment, value: Any) -> Experiment:
        """The experiment `base` with the option set to `value`."""
        return Experiment.model_validate(base.model_dump() | self.options | {self.option: value})


class StudyOptions(Section):
    """Studies that a run adds to its trainings (protocol by-image)."""

    sweeps: dict[Name, Sweep] = Field(
        {},
        description="named sweeps over an option of the experiments (table `results/studies/{sweep}.csv`)",
    )

    experiments: list[Name] = Field([], description="experiments of transfer, pool and finetune ([]: those of the run)")
    transfer: bool = Field(False, description="score every model on the test sets of all cubes of the run")
    pool: bool = Field(
        False, description="train one model on all telescopes of a pipeline (two or more), scored as under transfer"
    )
    leave_one_out: bool = Field(
        False, description="train on all telescopes of a pipeline but one (three or more), scored as under transfer"
    )
    finetune: list[Annotated[int, Field(ge=2)]] = Field(
        [], description="numbers of labels with which a model that never saw a telescope is fine-tuned ([]: none)"
    )
    finetune_from: Literal["pool", "universal"] = Field(
        "pool",
        description="what is fine-tuned: the experiments trained on the other telescopes of the run, or the shipped model",
    )
    label_noise: list[Name] = Field(
        [], description="experiments whose networks rank the suspected wrong labels of every cube ([]: none)"
    )


class FinetuneOptions(Section):
    """Fine-tuning of a model on labels of another telescope."""

    learning_rate: float = Field(3e-4, gt=0, le=10, description="Adam's first learning rate; it falls along a cosine")
    epochs: int = Field(20, ge=1, le=100_000, description="epochs; the last is kept")
    batch_size: int = Field(16, ge=1, le=100_000, description="cutouts per batch")
    batch_norm: Literal["frozen", "trained"] = Field(
        "frozen", description="batch normalisation as the source left it, or trained on with the rest"
    )
    folds: int = Field(4, ge=2, le=20, description="folds by image, on which it is chosen how far the weights go")
    steps: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.25, 0.5, 0.75, 1.0],
        min_length=1,
        description="shares of the way from the old weights to the fine-tuned ones that are tried; without a gain out of "
        "fold the old ones stay",
    )
    pull: float = Field(
        0.5,
        gt=0,
        le=10,
        description="how far few labels move the log odds (width of the prior about those of the source) [nat]",
    )


class RunOptions(Section):
    """What one run makes."""

    cubes: list[str] = Field(["demo/builtin"], description="cubes to build, as telescope/pipeline")
    experiments: list[Name] = Field(["paper", "otrain2"], min_length=1, description="experiments run on every cube")
    seeds: list[Seed] = Field([1], min_length=1, description="one training for each seed")
    max_images: int | None = Field(
        None, ge=1, description="use at most so many science images of each telescope, the first ones (null: all)"
    )
    fused: bool = Field(
        False,
        description="all steps of an image in one job and one process: the same cutouts with less time and fewer files",
    )
    images_per_job: int = Field(
        1,
        ge=1,
        le=10_000,
        description="images that one job takes, one after the other (with fused; more for small images)",
    )
    protocols: list[Literal["by-image", "random"]] = Field(
        ["by-image"],
        min_length=1,
        description="by-image: dealt by image, threshold from the validation set, scored on test; random: 85/15 by "
        "cutout as in the paper, the threshold set on the scored cutouts",
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
            raise ValueError(f"{twice[0]!r} stands twice")
        return value


class Config(Section):
    """Everything a run can be told. Files are named relative to the working directory."""

    telescope_folder: str = Field("config/telescopes", description="folder of telescopes, one file NAME.yaml each")
    telescopes: dict[Name, dict[str, Any]] = Field(
        {}, description="telescopes by name, laid over those of telescope_folder key by key"
    )
    images: str | None = Field(None, description="sheet of real images (telescopes with source images)")
    labels: str | None = Field(
        None, description="sheet of labels given by hand (otrain label), which override those of crossmatch in the cube"
    )
    data_root: str = Field(".", description="folder that paths in the sheets are relative to")
    seed: Seed = Field(1, description="seed of everything before training")
    run: RunOptions = RunOptions()
    pipelines: dict[Name, Pipeline] = Field(
        {"builtin": Pipeline(), "gmadet": GMADET, "stdpipe": STDPIPE}, description="named recipes"
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
        description="named training set-ups (those between paper and otrain2 show what each change gives; fine-tuned goes on "
        "with the shipped model)",
    )
    evaluate: EvaluateOptions = EvaluateOptions()
    explain: ExplainOptions = ExplainOptions()
    label_noise: LabelNoiseOptions = LabelNoiseOptions()
    gate: GateOptions = GateOptions()
    studies: StudyOptions = StudyOptions()
    draw: DrawOptions = Field(DrawOptions(), description="telescopes drawn at random (target universal)")
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
                raise ValueError(f"run.cubes: {telescope!r} is the name of a pool of telescopes (see studies)")
            if pipeline not in self.pipelines:
                raise ValueError(f"run.cubes names pipeline {pipeline!r}; pipelines has {sorted(self.pipelines)}")
        for kind in ("pipelines", "experiments"):
            for name in getattr(self, kind):
                if name in ("images", "sky"):
                    raise ValueError(f"{kind}: {name!r} is the name of a folder of results")
                if name in ("universal", "fixed-cuts"):
                    raise ValueError(f"{kind}: {name!r} is what tables name the shipped model or the fixed cuts")
        named = {"run.experiments": self.run.experiments}
        if self.draw.telescopes:
            for name in self.draw.pipelines:
                if name not in self.pipelines:
                    raise ValueError(f"draw.pipelines names {name!r}; pipelines has {sorted(self.pipelines)}")
        named |= {f"studies.{key}": getattr(self.studies, key) for key in ("experiments", "label_noise")}
        named |= {f"studies.sweeps.{key}.experiments": sweep.experiments for key, sweep in self.studies.sweeps.items()}
        for key, names in named.items():
            for name in names:
                if name not in self.experiments:
                    raise ValueError(f"{key} names {name!r}; experiments has {sorted(self.experiments)}")
        for key, sweep in self.studies.sweeps.items():
            for cube in sweep.cubes:
                if cube not in self.run.cubes:
                    raise ValueError(f"studies.sweeps.{key}.cubes names {cube!r}, which is not in run.cubes")
        return self


def load_config(values: dict[str, Any], *, where: str = "config") -> Config:
    """Check a nested dictionary of keys.

    Raises
    ------
    ConfigError
        Names the key, the value and what is allowed.
    """
    check_extent(values, where=where)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain_first(error, where)) from None
