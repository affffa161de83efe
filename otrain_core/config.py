"""The configuration: one typed model per section, from which the default YAML,
the JSON schema and the table of keys are generated (``python -m otrain_core.config``).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from otrain_core.errors import ConfigError

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_+.-]*"
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
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
Channel = Literal["difference", "science", "reference", "mask"]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class PsfOptions(Section):
    """PSF measured on the science image as it came, varying over the field."""

    method: Literal["empirical", "psfex"] = Field(
        "empirical", description="back end that measures the PSF (psfex: PSFEx on a catalogue of Source Extractor)"
    )
    astrometry: Literal["none", "scamp", "astropy"] = Field(
        "none",
        description="the WCS as it came, or refined on the star catalogue by SCAMP or by STDPipe's fit with astropy",
    )
    astrometry_degree: int = Field(3, ge=1, le=6, description="degree of the distortion in a refined WCS")
    photometry: Literal["header", "catalogue"] = Field(
        "header",
        description="zero point from the header, or from the star catalogue with a colour term (STDPipe's solution)",
    )
    match_radius: float = Field(5.0, gt=0, description="stars and catalogue are matched within this [px]")
    degree: int = Field(2, ge=0, le=4, description="degree of the polynomial in x and y that the PSF follows")
    min_snr: float = Field(20.0, gt=0, description="signal-to-noise ratio that a PSF star must exceed")
    max_ellipticity: float = Field(0.3, gt=0, lt=1, description="largest ellipticity 1-b/a of a PSF star")
    max_stars: int = Field(400, ge=10, description="number of stars used at most, brightest unsaturated first")
    min_stars: int = Field(8, ge=3, description="with fewer stars the image is refused")


class InjectOptions(Section):
    """Point sources added to the science image before any cleaning."""

    n_sources: int = Field(150, ge=1, description="sources injected in an image")
    grid: int = Field(9, ge=1, description="the field is cut into grid x grid cells that get equal numbers of sources")
    bright_mag: float = Field(4.5, description="brightest source, in magnitudes brighter than the 5-sigma limit")
    faint_mag: float = Field(0.5, description="faintest source, in magnitudes fainter than the 5-sigma limit")
    mix: dict[Literal["random", "galaxy", "star"], Annotated[float, Field(ge=0)]] = Field(
        {"random": 0.7, "galaxy": 0.15, "star": 0.15},
        description="shares of the kinds of places: at random, near galaxies, on or beside stars",
    )
    psf_snapshots: int = Field(
        0, ge=0, description="the PSF of the nearest of so many x so many places is injected (0: of its own place)"
    )
    removed_stars: int = Field(
        10, ge=0, description="stars taken out of the reference as a check without simulation, per image"
    )
    transplanted_stars: int = Field(
        10, ge=0, description="stars of the science image set down elsewhere in it as a check without simulation"
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self):
        if self.bright_mag + self.faint_mag < 0:
            raise ValueError("bright_mag + faint_mag must not be negative: the range of magnitudes is empty")
        if not sum(self.mix.values()) > 0:
            raise ValueError("mix needs a kind with a positive share")
        return self


class PrepareOptions(Section):
    """Cleaning after injection: cosmic rays, background, mask, noise."""

    cosmics: Literal["astroscrappy", "none"] = Field("astroscrappy", description="cosmic-ray removal (L.A.Cosmic)")
    cosmics_sigclip: float = Field(6.0, gt=0, description="Laplacian signal-to-noise limit of a cosmic ray")
    cosmics_objlim: float = Field(5.0, gt=0, description="contrast limit between a cosmic ray and the object under it")
    cosmics_iterations: int = Field(2, ge=1, le=10, description="rounds of L.A.Cosmic at most")
    background_box: int = Field(64, ge=8, description="box of the background map [px]")
    background_method: Literal["sep", "photutils"] = Field("sep", description="back end of the background map")
    background_filter: int = Field(3, ge=1, description="median filter of the background map [boxes]")
    saturation_fraction: float = Field(
        0.9, gt=0, le=1, description="pixels above this fraction of saturation are masked"
    )
    saturation_grow: int = Field(2, ge=0, description="pixels by which a saturated region grows")
    bad_pixel_sigma: float = Field(
        0.0, ge=0, description="columns off by more than this many sigma are masked (0: never)"
    )


class SubtractOptions(Section):
    """Reference aligned to the science grid, matched and subtracted."""

    method: Literal["alard-lupton", "zogy", "hotpants"] = Field("alard-lupton", description="subtraction back end")
    fallback: Literal["none", "alard-lupton", "zogy"] = Field(
        "none", description="back end used where the program of the chosen one is not installed (none: an error)"
    )
    align: Literal["auto", "wcs", "stars", "swarp"] = Field(
        "auto",
        description="wcs: by the WCSs, corrected by matched stars; stars: by their pattern (astroalign); auto: wcs where both images have one and the stars agree with it; swarp: SWarp by the WCSs alone",
    )
    resampling: Literal["bilinear", "lanczos3"] = Field("bilinear", description="interpolation of align: swarp")
    hotpants_program: str | None = Field(None, description="path of the program hotpants (null: looked for on PATH)")
    hotpants_options: dict[str, int | float | str | list[int | float]] = Field(
        {}, description="command-line options of hotpants by name, which replace those derived from the seeing"
    )
    kernel_order: int = Field(2, ge=0, le=4, description="degree of the spatial variation of the kernel")
    background_order: int = Field(1, ge=0, le=4, description="degree of the differential background")
    kernel_half_width: int = Field(0, ge=0, description="half width of the kernel [px] (0: from the seeing)")
    max_stamps: int = Field(200, ge=10, description="stars used for the fit at most")
    sigma_clip: float = Field(3.0, gt=0, description="stamps whose residual is off by more are left out of the fit")
    max_noise_spread: float = Field(
        2.0, gt=1, description="a difference whose noise-normalised spread away from sources exceeds this is refused"
    )
    max_star_residual: float = Field(
        0.3, gt=0, description="a difference in which bright stars leave more than this share of their flux is refused"
    )


class DetectOptions(Section):
    """Candidates on the noise-weighted difference, and sources of the science image that no catalogue has."""

    method: Literal["sep", "source-extractor", "stdpipe"] = Field(
        "sep",
        description="back end that finds sources (stdpipe: its noise-weighted detection and rejection of masked artefacts)",
    )
    search: list[Literal["difference", "catalogue"]] = Field(
        ["difference"],
        min_length=1,
        description="search methods, whose lists are merged: difference imaging, catalogue cross-match of the science image",
    )
    catalogue_radius: float = Field(
        3.0, gt=0, description="a source this near to a catalogue entry is known (search: catalogue) [px]"
    )
    threshold: float = Field(
        4.5,
        gt=0,
        description="detection threshold [sigma]: after the matched filter (sep), of single pixels (source-extractor), S/N in an aperture (stdpipe)",
    )
    min_area: int = Field(
        1,
        ge=1,
        description="smallest number of connected pixels above the threshold (stdpipe: above 2 sigma, at least 3)",
    )
    edge: int = Field(0, ge=0, description="candidates closer to the edge are flagged EDGE [px] (0: half a cutout)")
    fwhm_ratio: tuple[float, float] = Field((0.0, 20.0), description="accepted range of FWHM over seeing")
    max_candidates: int = Field(5000, ge=1, description="an image with more candidates than this is refused")
    both_signs: bool = Field(False, description="also detect negative sources")
    rescale_noise: bool = Field(
        True, description="scale the noise to the spread of the filtered difference (correlated noise, unsure gain)"
    )


class CrossmatchOptions(Section):
    """Labels from the injected sources and from lists of known objects."""

    radius: float = Field(0.75, gt=0, description="True: match to an injected source within this [seeing FWHM]")
    exclusion: float = Field(
        2.0, gt=0, description="unmatched candidates this near to an injection are left out [seeing FWHM]"
    )
    known_radius: float = Field(
        2.0, gt=0, description="candidates this near to a known object are left out [seeing FWHM]"
    )
    max_flux_bias: float = Field(
        0.3, gt=0, description="an image whose injected sources come out wrong by more than this (median) is refused"
    )
    min_recovered: float = Field(
        0.3, ge=0, le=1, description="an image that gives back fewer of its injected sources above S/N 10 is refused"
    )
    max_flux_ratio: float = Field(
        3.0,
        gt=1,
        description="a match with more than this times the injected flux is left out: most of it is not injected",
    )

    @model_validator(mode="after")
    def _exclusion_is_larger(self):
        if self.exclusion < self.radius:
            raise ValueError("exclusion must not be smaller than radius")
        return self


class CutoutsOptions(Section):
    """Cutouts around the candidates."""

    size: int = Field(32, ge=9, le=255, description="side of the cutouts [px]")
    max_missing: float = Field(
        0.25, ge=0, le=1, description="a cutout with a larger share of missing pixels counts as EDGE"
    )


STEP_OPTIONS = ("psf", "inject", "prepare", "subtract", "detect", "crossmatch", "cutouts")


class Pipeline(Section):
    """A pipeline is data: a back end and parameters for each step."""

    psf: PsfOptions = PsfOptions()
    inject: InjectOptions = InjectOptions()
    prepare: PrepareOptions = PrepareOptions()
    subtract: SubtractOptions = SubtractOptions()
    detect: DetectOptions = DetectOptions()
    crossmatch: CrossmatchOptions = CrossmatchOptions()
    cutouts: CutoutsOptions = CutoutsOptions()
    telescopes: dict[Name, dict[str, dict[str, Any]]] = Field(
        {}, description="what differs for single telescopes: telescope, step, key"
    )

    def options(self, telescope: str, step: str) -> Section:
        """Options of one step for one telescope."""
        section = getattr(self, step)
        values = section.model_dump()
        for key, value in self.telescopes.get(telescope, {}).get(step, {}).items():
            values[key] = (
                values[key] | value if isinstance(value, dict) and isinstance(values.get(key), dict) else value
            )
        return type(section).model_validate(values)

    @model_validator(mode="after")
    def _overrides_are_options(self):
        for telescope, steps in self.telescopes.items():
            for step in steps:
                if step not in STEP_OPTIONS:
                    raise ValueError(
                        f"telescopes.{telescope}: {step!r} is no step; steps are {', '.join(STEP_OPTIONS)}"
                    )
                try:
                    self.options(telescope, step)
                except ValidationError as error:
                    raise ValueError(_explain_first(error, f"telescopes.{telescope}.{step}")) from None
        return self


GMADET = Pipeline(
    psf=PsfOptions(method="psfex", astrometry="scamp"),
    # Source Extractor's threshold on single pixels finds little below S/N 15.
    inject=InjectOptions(bright_mag=5.5, faint_mag=-0.5, mix={"random": 1.0}, psf_snapshots=9),
    prepare=PrepareOptions(background_method="photutils", background_box=20),
    subtract=SubtractOptions(
        method="hotpants",
        align="swarp",
        hotpants_options={
            "ng": [3, 6, 0.7, 4, 1.5, 2, 3.0],
            "r": 10,
            "rss": 15,
            "ft": 20,
            "ssig": 3,
            "kfm": 0.99,
            "ks": 2,
            "nsx": 20,
            "nsy": 20,
            "ko": 0,
            "bgo": 0,
            "ssf": "none",
        },
    ),
    detect=DetectOptions(
        method="source-extractor",
        search=["difference", "catalogue"],
        threshold=4.0,
        min_area=4,
        fwhm_ratio=(0.5, 5.0),
    ),
    telescopes={"FRAM-CTA-N": {"subtract": {"hotpants_options": {"nsx": 10, "nsy": 10, "ko": 1, "bgo": 1}}}},
)
STDPIPE = Pipeline(
    psf=PsfOptions(method="psfex", astrometry="astropy", photometry="catalogue"),
    subtract=SubtractOptions(method="hotpants", align="swarp", resampling="lanczos3"),
    detect=DetectOptions(method="stdpipe"),
    cutouts=CutoutsOptions(size=63),
)


class CubeOptions(Section):
    """The cube of a telescope under a pipeline."""

    true_fraction: float | None = Field(
        0.5, gt=0, lt=1, description="share of True cutouts, drawn at random from the larger class (null: keep all)"
    )
    max_cutouts: int | None = Field(None, ge=2, description="keep at most this many cutouts, drawn at random")
    channels: list[Channel] = Field(
        ["difference", "science", "reference", "mask"], min_length=1, description="channels kept in the cube"
    )
    real_stars: bool = Field(
        False, description="real stars (removed, transplanted) join the cube and train; otherwise they only check"
    )
    min_per_class: int = Field(20, ge=1, description="with fewer cutouts of a class the cube is refused")
    max_failed_fraction: float = Field(
        0.5, ge=0, le=1, description="with a larger share of failed images the cube is refused"
    )


class SplitOptions(Section):
    """Train, tune and test, dealt by image and, where images share a field, by sector of the sky."""

    fractions: tuple[float, float, float] = Field((0.6, 0.15, 0.25), description="shares of train, tune and test")
    guard: float = Field(
        4.0,
        ge=0,
        description="where images share a field: distance kept from every cutout of another set [seeing FWHM]",
    )

    @field_validator("fractions")
    @classmethod
    def _sum_is_one(cls, value):
        if min(value) <= 0 or abs(sum(value) - 1) > 1e-6:
            raise ValueError("three positive shares that add up to 1 are needed")
        return value


class Experiment(Section):
    """A named training set-up."""

    network: Literal["paper", "otrain2"] = Field("otrain2", description="architecture")
    inputs: list[Channel] = Field(["difference"], min_length=1, description="channels given to the network")
    size: int | None = Field(
        None, ge=9, description="cutouts are cropped to this side about the candidate (null: as in the cube)"
    )
    normalise: Literal["none", "mad-asinh"] = Field(
        "mad-asinh",
        description="input stage: raw values, or (x - median) / MAD compressed by asinh, per cutout and channel",
    )
    augment: bool = Field(True, description="random flips and quarter turns of the training cutouts")
    epochs: int = Field(24, ge=1, description="epochs at most")
    batch_size: int = Field(128, ge=1, description="cutouts per batch")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's (first) learning rate")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="learning-rate schedule")
    label_smoothing: float = Field(
        0.05, ge=0, lt=1, description="share of the target spread over both classes (0.1: a True is to score 0.95)"
    )
    keep: Literal["best", "last"] = Field("best", description="epoch that is kept, by the loss on tune")
    patience: int = Field(0, ge=0, description="stop after so many epochs without a better tune loss (0: never)")
    class_weights: bool = Field(True, description="weigh the classes by their inverse frequency")
    require_gpu: bool = Field(False, description="refuse to train where no GPU is seen")
    threshold: Literal["gmean", "f1", "f1-mcc"] = Field("f1-mcc", description="rule that sets the decision threshold")


PAPER_EXPERIMENT = Experiment(
    network="paper",
    normalise="none",
    augment=False,
    epochs=30,
    batch_size=1024,
    schedule="constant",
    label_smoothing=0.0,
    keep="last",
    patience=0,
    class_weights=False,
)


class EvaluateOptions(Section):
    """Scores with their intervals."""

    bootstrap: int = Field(1000, ge=100, description="bootstrap draws, of whole images, behind every interval")
    confidence: float = Field(0.95, gt=0, lt=1, description="confidence of the intervals")
    stated_recall: float = Field(0.95, gt=0, lt=1, description="recall at which the false-positive rate is quoted")
    bins: int = Field(4, ge=2, description="bins of magnitude, magnitude error and S/N")


class ExplainOptions(Section):
    """Grad-CAM maps."""

    layer: str | None = Field(None, description="convolution layer (null: the last one)")
    output: Literal["logit", "softmax"] = Field(
        "logit", description="what is differentiated (softmax: as in the paper)"
    )
    n_cutouts: int = Field(8, ge=1, description="cutouts shown of each kind (right and wrong, True and False)")


class GateOptions(Section):
    """What a model must reach on test to become the champion of its telescope."""

    min_mcc: float = Field(0.7, description="MCC must exceed this (Makhlouf et al. 2022, Sect. 6.1)")
    max_fp: float = Field(0.05, description="false positives as a share of the test set must not exceed this")


class RunOptions(Section):
    """What one run makes."""

    cubes: list[str] = Field(["demo/builtin"], description="cubes to build, as telescope/pipeline")
    experiments: list[Name] = Field(["paper", "otrain2"], min_length=1, description="experiments run on every cube")
    seeds: list[int] = Field([1], min_length=1, description="one training for each seed")
    protocols: list[Literal["grouped", "paper"]] = Field(
        ["grouped"],
        min_length=1,
        description="grouped: by image, scored on test; paper: random 85/15, tuned and scored on the same set",
    )

    @field_validator("cubes")
    @classmethod
    def _two_names(cls, value):
        for item in value:
            if item.count("/") != 1 or not all(item.split("/")):
                raise ValueError(f"{item!r} is not of the form telescope/pipeline")
        return value


class Config(Section):
    """Everything a run can be told. Files are named relative to the working directory."""

    telescopes: str = Field("config/telescopes.csv", description="sheet of telescopes, one row each")
    images: str | None = Field(None, description="sheet of real images (telescopes with source images)")
    data_root: str = Field(".", description="folder that paths in the sheets are relative to")
    seed: int = Field(1, ge=0, description="seed of everything before training")
    run: RunOptions = RunOptions()
    pipelines: dict[Name, Pipeline] = Field(
        {"builtin": Pipeline(), "gmadet": GMADET, "stdpipe": STDPIPE}, description="named recipes"
    )
    cube: CubeOptions = CubeOptions()
    split: SplitOptions = SplitOptions()
    experiments: dict[Name, Experiment] = Field(
        {"paper": PAPER_EXPERIMENT, "otrain2": Experiment()}, description="named training set-ups"
    )
    evaluate: EvaluateOptions = EvaluateOptions()
    explain: ExplainOptions = ExplainOptions()
    gate: GateOptions = GateOptions()

    @model_validator(mode="after")
    def _names_exist(self):
        for item in self.run.cubes:
            pipeline = item.split("/")[1]
            if pipeline not in self.pipelines:
                raise ValueError(f"run.cubes names pipeline {pipeline!r}; pipelines has {sorted(self.pipelines)}")
        for kind in ("pipelines", "experiments"):
            for name in getattr(self, kind):
                if name in ("images", "sky"):
                    raise ValueError(f"{kind}: {name!r} is the name of a folder of results")
        for name in self.run.experiments:
            if name not in self.experiments:
                raise ValueError(f"run.experiments names {name!r}; experiments has {sorted(self.experiments)}")
        return self


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


def _explain_first(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(section)"
    if first["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key{_near(key.split('.')[-1], error.title)}"
    value = first.get("input")
    shown = f" (found {value!r})" if not isinstance(value, dict | BaseModel) else ""
    return f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}{shown}"


def _near(key: str, title: str) -> str:
    import difflib

    known = {name for section in _sections() for name in section.model_fields}
    match = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def _sections() -> list[type[Section]]:
    return Section.__subclasses__()


def load_config(values: dict[str, Any], *, where: str = "config") -> Config:
    """Check a nested dictionary of keys.

    Raises
    ------
    ConfigError
        Names the key, the value and what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain_first(error, where)) from None


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
                raise ConfigError(f"sheet {path}: {key.strip()}: unknown column{_near(key.strip(), '')}")
        try:
            parsed.append(model.model_validate(cells))
        except ValidationError as error:
            raise ConfigError(_explain_first(error, f"sheet {path}, row {number}")) from None
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


if __name__ == "__main__":
    from otrain_core.config_docs import generate

    for target, text in generate().items():
        target.write_text(text)
