"""Options of the steps of a pipeline, and the pipelines that are shipped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from otrain_core.plan.sections import Name, Section, explain_first


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
    match_radius: float = Field(5.0, gt=0, le=1000, description="stars and catalogue are matched within this [px]")
    degree: int = Field(2, ge=0, le=4, description="degree of the polynomial in x and y that the PSF follows")
    min_snr: float = Field(20.0, gt=0, description="signal-to-noise ratio that a PSF star must exceed")
    max_ellipticity: float = Field(0.3, gt=0, lt=1, description="largest ellipticity 1-b/a of a PSF star")
    max_stars: int = Field(
        400, ge=10, le=100_000, description="number of stars used at most, brightest unsaturated first"
    )
    min_stars: int = Field(8, ge=3, le=1000, description="with fewer stars the image is refused")


class InjectOptions(Section):
    """Point sources added to the science image before any cleaning."""

    n_sources: int = Field(150, ge=1, le=100_000, description="sources injected in an image")
    grid: int = Field(
        9, ge=1, le=1000, description="the field is cut into grid x grid cells that get equal numbers of sources"
    )
    bright_mag: float = Field(
        4.5, ge=-20, le=20, description="brightest source, in magnitudes brighter than the 5-sigma limit"
    )
    faint_mag: float = Field(
        0.5, ge=-20, le=20, description="faintest source, in magnitudes fainter than the 5-sigma limit"
    )
    mix: dict[Literal["random", "galaxy", "star", "variable"], Annotated[float, Field(ge=0)]] = Field(
        {"random": 0.7, "galaxy": 0.15, "star": 0.15},
        description="shares of the kinds of places: at random, near galaxies, beside stars, and in the middle of stars, which vary",
    )
    psf_snapshots: int = Field(
        0,
        ge=0,
        le=100,
        description="the PSF of the nearest of so many x so many places is injected (0: of its own place)",
    )
    negative_fraction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the sources that fade: they are added to the reference instead (needs detect.both_signs, and removed_stars for the flux scale)",
    )
    removed_stars: int = Field(
        10, ge=0, le=10_000, description="stars taken out of the reference as a check without simulation, per image"
    )
    transplanted_stars: int = Field(
        10,
        ge=0,
        le=10_000,
        description="stars of the science image set down elsewhere in it as a check without simulation",
    )
    vanished_stars: int = Field(
        0,
        ge=0,
        le=10_000,
        description="stars taken out of the science image, which so have faded, as a check without simulation (needs detect.both_signs)",
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
    background_box: int = Field(64, ge=8, le=10_000, description="box of the background map [px]")
    background_method: Literal["sep", "photutils"] = Field("sep", description="back end of the background map")
    background_filter: int = Field(3, ge=1, le=99, description="median filter of the background map [boxes]")
    saturation_fraction: float = Field(
        0.9, gt=0, le=1, description="pixels above this fraction of saturation are masked"
    )
    saturation_grow: int = Field(2, ge=0, le=1000, description="pixels by which a saturated region grows")
    bad_pixel_sigma: float = Field(
        0.0, ge=0, description="columns off by more than this many sigma are masked (0: never)"
    )


class SubtractOptions(Section):
    """Reference aligned to the science grid, matched and subtracted."""

    method: Literal["alard-lupton", "sfft", "zogy", "hotpants"] = Field(
        "alard-lupton", description="subtraction back end"
    )
    fallback: Literal["none", "alard-lupton", "sfft", "zogy"] = Field(
        "none", description="back end used where the program of the chosen one is not installed (none: an error)"
    )
    align: Literal["auto", "wcs", "stars", "swarp"] = Field(
        "auto",
        description="wcs: by the WCSs, corrected by matched stars; stars: by their pattern, however the image is turned or mirrored; auto: wcs where both images have one and the stars agree with it; swarp: SWarp by the WCSs alone",
    )
    resampling: Literal["bilinear", "lanczos3"] = Field("bilinear", description="interpolation of align: swarp")
    hotpants_program: str | None = Field(None, description="path of the program hotpants (null: looked for on PATH)")
    hotpants_options: dict[str, int | float | str | list[int | float]] = Field(
        {}, description="command-line options of hotpants by name, which replace those derived from the seeing"
    )
    kernel_order: Literal["auto"] | Annotated[int, Field(ge=0, le=4)] = Field(
        "auto",
        description="degree of the spatial variation of the kernel (auto: 0, 1 or 2, as the stars predict each other best; lowered where they are too few or leave a part of the field empty)",
    )
    background_order: int = Field(1, ge=0, le=4, description="degree of the differential background")
    kernel_half_width: int = Field(0, ge=0, le=100, description="half width of the kernel [px] (0: from the seeing)")
    max_stamps: int = Field(200, ge=10, le=5000, description="stars used for the fit at most")
    sigma_clip: float = Field(
        3.0, gt=0, allow_inf_nan=False, description="stamps whose residual is off by more are left out of the fit"
    )
    max_noise_spread: float = Field(
        2.0,
        gt=1,
        allow_inf_nan=False,
        description="a difference whose noise-normalised spread away from sources exceeds this is refused",
    )
    max_noise_correlation: float = Field(
        0.15,
        gt=0,
        le=1,
        description="largest correlation of the noise of science image and reference (1/sqrt(N) where the science image is one of N in the reference)",
    )
    max_flux_slope: float = Field(
        0.15,
        gt=0,
        allow_inf_nan=False,
        description="a reference whose stars' fluxes follow those in the science image with an exponent surely further than this from 1 is refused: its pixels are not linear",
    )
    max_flux_scatter: float = Field(
        0.5,
        gt=0,
        allow_inf_nan=False,
        description="largest scatter of the stars' flux ratios (natural logarithm) between the images",
    )
    max_model_error: float = Field(
        0.3,
        gt=0,
        allow_inf_nan=False,
        description="largest share of the signal of bright stars that the kernel leaves unexplained (root mean square)",
    )
    max_star_residual: float = Field(
        0.3,
        gt=0,
        allow_inf_nan=False,
        description="a difference in which bright stars leave more than this share of their flux is refused",
    )


class DetectOptions(Section):
    """Candidates on the noise-weighted difference, and sources of the science image that no catalogue has."""

    method: Literal["sep", "source-extractor", "stdpipe", "finder"] = Field(
        "sep",
        description="back end that finds sources (stdpipe: its noise-weighted detection and rejection of masked artefacts; "
        "finder: a detector network, see section finder)",
    )
    finder: str | None = Field(None, description="file of the detector network (finder.onnx) of method: finder")
    finder_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="score of its candidates at least (null: that of one false alarm an image of the validation set)",
    )
    search: list[Literal["difference", "catalogue"]] = Field(
        ["difference"],
        min_length=1,
        description="search methods, whose lists are merged: difference imaging, catalogue cross-match of the science image",
    )
    catalogue_radius: float = Field(
        3.0, gt=0, le=1000, description="a source this near to a catalogue entry is known (search: catalogue) [px]"
    )
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
        4.5,
        description="detection threshold [sigma]: after the matched filter (sep), of single pixels (source-extractor), S/N in an aperture (stdpipe); "
        "auto: 4.5, or for each image as much lower, down to 3, as target_candidates takes",
    )
    target_candidates: int = Field(
        300, ge=1, description="candidates of an image that threshold: auto aims at, injected sources among them"
    )
    min_area: int = Field(
        1,
        ge=1,
        description="smallest number of connected pixels above the threshold (stdpipe: above 2 sigma, at least 3)",
    )
    edge: int = Field(
        0, ge=0, le=10_000, description="candidates closer to the edge are flagged EDGE [px] (0: half a cutout)"
    )
    fwhm_ratio: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]] = Field(
        (0.0, 20.0), description="accepted range of FWHM over seeing"
    )
    max_candidates: int = Field(
        5000, ge=1, le=1_000_000, description="an image with more candidates than this is refused"
    )
    both_signs: bool = Field(False, description="also detect negative sources")
    rescale_noise: bool = Field(
        True, description="scale the noise to the spread of the filtered difference (correlated noise, unsure gain)"
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self):
        if self.fwhm_ratio[0] >= self.fwhm_ratio[1]:
            raise ValueError("fwhm_ratio: the smaller ratio comes first")
        return self

    @model_validator(mode="after")
    def _finder_has_a_file(self):
        if self.method == "finder" and self.finder is None:
            raise ValueError("finder: method finder needs the file of a detector network")
        if self.method == "finder" and self.search != ["difference"]:
            raise ValueError("search: method finder searches the difference alone")
        if self.method != "finder" and (self.finder is not None or self.finder_score is not None):
            given = "finder" if self.finder is not None else "finder_score"
            raise ValueError(f"{given}: used by method finder alone, and the method is {self.method}")
        return self


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
    max_flux_scatter: float = Field(
        0.5,
        gt=0,
        allow_inf_nan=False,
        description="an image whose injected sources above S/N 20 come out with a larger scatter of their fluxes is refused",
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
    def _fading_sources_can_be_found(self):
        if self.inject.negative_fraction > 0 and not (self.detect.both_signs and self.inject.removed_stars):
            raise ValueError("inject.negative_fraction needs detect.both_signs and inject.removed_stars")
        if self.inject.vanished_stars > 0 and not self.detect.both_signs:
            raise ValueError("inject.vanished_stars needs detect.both_signs")
        return self

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
                    raise ValueError(explain_first(error, f"telescopes.{telescope}.{step}")) from None
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
