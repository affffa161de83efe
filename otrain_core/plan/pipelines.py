"""Options of the steps of a pipeline, and the pipelines that are shipped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from otrain_core.plan.sections import Name, Section, explain_first


class PsfOptions(Section):
    """Measurement of the PSF, which varies over the field, on the science image before any processing."""

    method: Literal["empirical", "psfex"] = Field(
        "empirical", description="back end that measures the PSF (psfex: PSFEx on a Source Extractor catalogue)"
    )
    astrometry: Literal["none", "scamp", "astropy"] = Field(
        "none",
        description="refinement of the WCS with the star catalogue: none, by SCAMP, or by STDPipe's fit with astropy",
    )
    astrometry_degree: int = Field(3, ge=1, le=6, description="degree of the distortion polynomial of the refined WCS")
    photometry: Literal["header", "catalogue"] = Field(
        "header",
        description="source of the zero point: the header, or a fit to the star catalogue with a colour term (by STDPipe)",
    )
    match_radius: float = Field(
        5.0, gt=0, le=1000, description="largest distance between a star and its catalogue entry [px]"
    )
    degree: int = Field(2, ge=0, le=4, description="degree of the polynomial in x and y that describes the PSF")
    min_snr: float = Field(20.0, gt=0, description="minimum signal-to-noise ratio of a PSF star")
    max_ellipticity: float = Field(0.3, gt=0, lt=1, description="maximum ellipticity 1 - b/a of a PSF star")
    max_stars: int = Field(
        400, ge=10, le=100_000, description="maximum number of PSF stars; the brightest unsaturated stars are used"
    )
    min_stars: int = Field(8, ge=3, le=1000, description="an image with fewer PSF stars is refused")


class InjectOptions(Section):
    """Injection of point sources into the science image before any cleaning."""

    n_sources: int = Field(150, ge=1, le=100_000, description="number of sources injected into each image")
    grid: int = Field(
        9, ge=1, le=1000, description="the field is divided into grid x grid cells with equal numbers of sources"
    )
    bright_mag: float = Field(
        4.5, ge=-20, le=20, description="brightest injected source, in magnitudes brighter than the 5-sigma limit"
    )
    faint_mag: float = Field(
        0.5, ge=-20, le=20, description="faintest injected source, in magnitudes fainter than the 5-sigma limit"
    )
    mix: dict[Literal["random", "galaxy", "star", "variable"], Annotated[float, Field(ge=0)]] = Field(
        {"random": 0.7, "galaxy": 0.15, "star": 0.15},
        description="relative numbers of sources at random positions (random), near galaxies (galaxy), next to stars "
        "(star), and on top of stars, as variable stars (variable)",
    )
    psf_snapshots: int = Field(
        0,
        ge=0,
        le=100,
        description="inject the PSF at the centre of the nearest of N x N cells (0: the PSF at the position of the source)",
    )
    negative_fraction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the sources that fade, i.e. are injected into the reference instead of the science image "
        "(needs detect.both_signs, and removed_stars for the flux scale)",
    )
    removed_stars: int = Field(
        10,
        ge=0,
        le=10_000,
        description="stars removed from the reference per image, as new sources that are not simulated",
    )
    transplanted_stars: int = Field(
        10,
        ge=0,
        le=10_000,
        description="stars of the science image copied to other positions in it, as new sources that are not simulated",
    )
    vanished_stars: int = Field(
        0,
        ge=0,
        le=10_000,
        description="stars removed from the science image, as faded sources that are not simulated (needs detect.both_signs)",
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self):
        if self.bright_mag + self.faint_mag < 0:
            raise ValueError("bright_mag + faint_mag must not be negative, as the range of magnitudes would be empty")
        if not sum(self.mix.values()) > 0:
            raise ValueError("mix: at least one value must be positive")
        return self


class PrepareOptions(Section):
    """Cleaning of the image after injection: cosmic rays, background, mask and noise map."""

    cosmics: Literal["astroscrappy", "none"] = Field("astroscrappy", description="removal of cosmic rays (L.A.Cosmic)")
    cosmics_sigclip: float = Field(6.0, gt=0, description="Laplacian signal-to-noise limit for cosmic rays")
    cosmics_objlim: float = Field(
        5.0, gt=0, description="minimum contrast between a cosmic ray and the underlying object"
    )
    cosmics_iterations: int = Field(2, ge=1, le=10, description="maximum number of L.A.Cosmic iterations")
    background_box: int = Field(64, ge=8, le=10_000, description="box size of the background map [px]")
    background_method: Literal["sep", "photutils"] = Field(
        "sep", description="back end that measures the background map"
    )
    background_filter: int = Field(
        3, ge=1, le=99, description="size of the median filter of the background map [boxes]"
    )
    saturation_fraction: float = Field(
        0.9, gt=0, le=1, description="pixels above this fraction of the saturation level are masked"
    )
    saturation_grow: int = Field(2, ge=0, le=1000, description="growth of the mask around saturated pixels [px]")
    bad_pixel_sigma: float = Field(
        0.0, ge=0, description="columns that deviate by more than this many sigma are masked (0: none)"
    )


class SubtractOptions(Section):
    """Alignment of the reference to the science image, matching of PSF and flux, and subtraction."""

    method: Literal["alard-lupton", "sfft", "zogy", "hotpants"] = Field(
        "alard-lupton", description="subtraction back end"
    )
    fallback: Literal["none", "alard-lupton", "sfft", "zogy"] = Field(
        "none",
        description="back end used if the program of the chosen method is not installed (none: stop with an error)",
    )
    align: Literal["auto", "wcs", "stars", "swarp"] = Field(
        "auto",
        description="alignment of the reference: wcs uses both WCSs, corrected with matched stars; stars matches the star "
        "patterns, for any rotation or mirroring; auto uses wcs if both images have a WCS that agrees with the stars, "
        "otherwise stars; swarp uses SWarp and the WCSs only",
    )
    resampling: Literal["bilinear", "lanczos3"] = Field("bilinear", description="interpolation used by align: swarp")
    hotpants_program: str | None = Field(
        None, description="path of the program hotpants (null: search for it on the PATH)"
    )
    hotpants_options: dict[str, int | float | str | list[int | float]] = Field(
        {}, description="command-line options of hotpants by name; they replace the options derived from the seeing"
    )
    kernel_order: Literal["auto"] | Annotated[int, Field(ge=0, le=4)] = Field(
        "auto",
        description="degree of the spatial variation of the kernel (auto: 0, 1 or 2, chosen by cross-validation on the "
        "stars; lower if there are few stars or if part of the field has none)",
    )
    background_order: int = Field(1, ge=0, le=4, description="degree of the differential background polynomial")
    kernel_half_width: int = Field(
        0, ge=0, le=100, description="half-width of the kernel [px] (0: derived from the seeing)"
    )
    max_stamps: int = Field(200, ge=10, le=5000, description="maximum number of stars in the kernel fit")
    sigma_clip: float = Field(
        3.0,
        gt=0,
        allow_inf_nan=False,
        description="stars with larger residuals are clipped from the kernel fit [sigma]",
    )
    max_noise_spread: float = Field(
        2.0,
        gt=1,
        allow_inf_nan=False,
        description="maximum scatter of the difference image away from sources, in units of its noise; otherwise the "
        "image is refused",
    )
    max_noise_correlation: float = Field(
        0.15,
        gt=0,
        le=1,
        description="maximum correlation between the noise of the science image and of the reference; otherwise the image "
        "is refused (1/sqrt(N) if the science image is one of N frames stacked into the reference)",
    )
    max_flux_slope: float = Field(
        0.15,
        gt=0,
        allow_inf_nan=False,
        description="an image is refused if the star fluxes in its reference follow a power law of those in the science "
        "image whose exponent differs from 1 significantly by more than this, as one of the two is then not linear",
    )
    max_flux_scatter: float = Field(
        0.5,
        gt=0,
        allow_inf_nan=False,
        description="maximum scatter of the star flux ratios between the two images (natural logarithm); otherwise the "
        "image is refused",
    )
    max_model_error: float = Field(
        0.3,
        gt=0,
        allow_inf_nan=False,
        description="maximum fraction of the signal of bright stars that the kernel leaves unexplained (root mean "
        "square); otherwise the image is refused",
    )
    max_star_residual: float = Field(
        0.3,
        gt=0,
        allow_inf_nan=False,
        description="maximum fraction of their flux that bright stars leave in the difference; otherwise the image is refused",
    )


class DetectOptions(Section):
    """Detection of candidates on the noise-weighted difference, and of science-image sources that are not catalogued."""

    method: Literal["sep", "source-extractor", "stdpipe", "finder"] = Field(
        "sep",
        description="back end that detects sources (stdpipe: noise-weighted detection and rejection of masked artefacts "
        "by STDPipe; finder: a detector network, see section finder)",
    )
    finder: str | None = Field(None, description="file of the detector network (finder.onnx) for method: finder")
    finder_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="minimum score of a candidate for method: finder (null: the score that gives one false alarm per image "
        "of the validation set)",
    )
    search: list[Literal["difference", "catalogue"]] = Field(
        ["difference"],
        min_length=1,
        description="search methods, whose results are merged: detection on the difference image, and cross-match of the "
        "sources of the science image with the star catalogue",
    )
    catalogue_radius: float = Field(
        3.0,
        gt=0,
        le=1000,
        description="a source within this distance of a catalogue entry is known (search: catalogue) [px]",
    )
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
        4.5,
        description="detection threshold [sigma]: after the matched filter (sep), in single pixels (source-extractor), or "
        "S/N in an aperture (stdpipe); auto: 4.5, or lower (down to 3) for an image with fewer than target_candidates",
    )
    target_candidates: int = Field(
        300, ge=1, description="number of candidates per image, with injected sources, that threshold: auto aims for"
    )
    min_area: int = Field(
        1,
        ge=1,
        description="minimum number of connected pixels above the threshold (stdpipe: above 2 sigma, at least 3)",
    )
    edge: int = Field(
        0, ge=0, le=10_000, description="candidates closer to the image edge are flagged EDGE [px] (0: half a cutout)"
    )
    fwhm_ratio: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]] = Field(
        (0.0, 20.0), description="accepted range of the ratio of FWHM to seeing"
    )
    max_candidates: int = Field(
        5000, ge=1, le=1_000_000, description="an image with more candidates than this is refused"
    )
    both_signs: bool = Field(False, description="also detect negative sources")
    rescale_noise: bool = Field(
        True,
        description="scale the noise map to the scatter of the filtered difference (for correlated noise or an uncertain gain)",
    )

    @model_validator(mode="after")
    def _range_is_not_empty(self):
        if self.fwhm_ratio[0] >= self.fwhm_ratio[1]:
            raise ValueError("fwhm_ratio: the first ratio must be smaller than the second")
        return self

    @model_validator(mode="after")
    def _finder_has_a_file(self):
        if self.method == "finder" and self.finder is None:
            raise ValueError("finder: method: finder needs the file of a detector network")
        if self.method == "finder" and self.search != ["difference"]:
            raise ValueError("search: only 'difference' is possible with method: finder")
        if self.method != "finder" and (self.finder is not None or self.finder_score is not None):
            given = "finder" if self.finder is not None else "finder_score"
            raise ValueError(f"{given}: only used by method: finder, but the method is {self.method}")
        return self


class CrossmatchOptions(Section):
    """Labelling of the candidates with the injected sources and the lists of known objects."""

    radius: float = Field(
        0.75, gt=0, description="a candidate within this distance of an injected source is True [seeing FWHM]"
    )
    exclusion: float = Field(
        2.0,
        gt=0,
        description="an unmatched candidate within this distance of an injected source is left out [seeing FWHM]",
    )
    known_radius: float = Field(
        2.0, gt=0, description="a candidate within this distance of a known object is left out [seeing FWHM]"
    )
    max_flux_bias: float = Field(
        0.3, gt=0, description="maximum relative bias (median) of the injected fluxes; otherwise the image is refused"
    )
    max_flux_scatter: float = Field(
        0.5,
        gt=0,
        allow_inf_nan=False,
        description="maximum relative scatter of the fluxes of sources injected above S/N 20; otherwise the image is refused",
    )
    min_recovered: float = Field(
        0.3,
        ge=0,
        le=1,
        description="minimum fraction recovered of the sources injected above S/N 10; otherwise the image is refused",
    )
    max_flux_ratio: float = Field(
        3.0,
        gt=1,
        description="a match with more than this many times the injected flux is left out, as most of its flux is not injected",
    )

    @model_validator(mode="after")
    def _exclusion_is_larger(self):
        if self.exclusion < self.radius:
            raise ValueError("exclusion: must not be smaller than radius")
        return self


class CutoutsOptions(Section):
    """Cutouts around the candidates."""

    size: int = Field(32, ge=9, le=255, description="side length of the cutouts [px]")
    max_missing: float = Field(
        0.25, ge=0, le=1, description="a cutout with a larger fraction of missing pixels is flagged EDGE"
    )


STEP_OPTIONS = ("psf", "inject", "prepare", "subtract", "detect", "crossmatch", "cutouts")


class Pipeline(Section):
    """A pipeline: the back end and the parameters of each step."""

    psf: PsfOptions = PsfOptions()
    inject: InjectOptions = InjectOptions()
    prepare: PrepareOptions = PrepareOptions()
    subtract: SubtractOptions = SubtractOptions()
    detect: DetectOptions = DetectOptions()
    crossmatch: CrossmatchOptions = CrossmatchOptions()
    cutouts: CutoutsOptions = CutoutsOptions()
    telescopes: dict[Name, dict[str, dict[str, Any]]] = Field(
        {}, description="changes for individual telescopes, by telescope, step and key"
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
                        f"telescopes.{telescope}: {step!r} is not a step; the steps are {', '.join(STEP_OPTIONS)}"
                    )
                try:
                    self.options(telescope, step)
                except ValidationError as error:
                    raise ValueError(explain_first(error, f"telescopes.{telescope}.{step}")) from None
        return self


GMADET = Pipeline(
    psf=PsfOptions(method="psfex", astrometry="scamp"),
    # Source Extractor applies its threshold to single pixels and finds few sources below S/N 15.
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
