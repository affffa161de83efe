"""Telescopes: typed entries in YAML, one file each or inline in the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from otrain_core.errors import ConfigError
from otrain_core.plan.sections import Name, Section, explain_first, read_yaml

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

HIPS = "hips:"  # a reference that begins so is fetched from a survey
NETWORK_CATALOGUES = ("gaia", "panstarrs")
NETWORK_KNOWN = ("vsx", "skybot")

HeaderValue = Literal["gain", "read_noise", "saturation", "filter", "exposure", "time", "zero_point"]


class Detector(Section):
    """The detector of a telescope: what the headers of its images do not say, or say wrongly."""

    pixel_scale: float | None = Field(
        None,
        gt=0,
        description="pixel scale [arcsec/px]; needed where the header tells neither a WCS nor XPIXSZ with FOCALLEN",
    )
    gain: float | None = Field(None, gt=0, description="gain [electron/ADU]")
    read_noise: float | None = Field(None, ge=0, description="read noise [electron]")
    saturation: float | None = Field(None, gt=0, description="saturation level [ADU]")
    filter: str = Field("clear", description="filter when the header names none")
    type: Literal["ccd", "cmos"] = Field("ccd", description="type of the detector (cmos: nothing bleeds)")
    header: dict[HeaderValue, str] = Field(
        {}, description="keywords of the header that differ from the usual ones, by what they hold"
    )
    wins: Literal["header", "config"] = Field(
        "header", description="what counts where the header of an image and this entry both give a value"
    )
    unit: Literal["adu", "electron", "adu/s", "electron/s", "0..1"] | None = Field(
        None, description="unit of the pixels where the header does not say (BUNIT); 0..1: fractions of 65535 ADU"
    )
    fill: float | None = Field(
        None,
        allow_inf_nan=False,
        description="value of pixels without data (null: areas of one exact value along the border of the image)",
    )
    extension: int | str | None = Field(
        None,
        description="extension with the image where a file has several, by number or name (null: the only one that is no mask, error or preview)",
    )


class SimulatedSky(Section):
    """The sky and the exposures of a simulated telescope."""

    n_images: int = Field(1, ge=1, le=9999, description="science images to simulate, each of a field of its own")
    width: int = Field(1024, ge=64, le=20_000, description="width of the detector [px]")
    height: int = Field(1024, ge=64, le=20_000, description="height of the detector [px]")
    exposure: float = Field(60.0, gt=0, description="exposure time [s]")
    zero_point: float = Field(25.0, ge=-50, le=50, description="magnitude that gives 1 ADU in the exposure")
    sky_mag: float = Field(20.5, ge=-50, le=50, description="sky brightness [mag/arcsec2]")
    seeing: float = Field(2.0, gt=0, description="median FWHM of a star, pixel included [arcsec]")
    seeing_spread: float = Field(0.15, ge=0, le=2, description="scatter of the seeing from image to image [relative]")
    psf_beta: float = Field(3.0, gt=1.1, le=100, description="Moffat beta of the PSF")
    psf_ellipticity: float = Field(0.05, ge=0, lt=0.6, description="ellipticity of the PSF at the field centre")
    psf_variation: float = Field(0.1, ge=0, lt=1, description="relative change of FWHM from the centre to the corner")
    star_density: float = Field(400.0, ge=0, le=1e6, description="stars per million pixels down to the 5-sigma limit")
    variables: float = Field(
        0.0, ge=0, le=1e5, description="variable stars per image, half of them in lists of known ones"
    )
    asteroids: float = Field(
        0.0, ge=0, le=1e5, description="moving objects per image, half of them in lists of known ones"
    )
    color_term: float = Field(
        0.0, ge=-5, le=5, description="colour term between the science image and the reference [mag per mag of g - r]"
    )
    galaxy_density: float = Field(
        60.0, ge=0, le=1e6, description="galaxies per million pixels down to the 5-sigma limit"
    )
    pointing: float = Field(10.0, ge=0, description="scatter of the pointing between science and reference [px]")
    rotation: float = Field(0.2, ge=0, le=180, description="scatter of the field rotation [deg]")
    wcs_error: float = Field(0.1, ge=0, description="scatter of the WCS solution of an image [px]")
    tracking: float = Field(0.3, ge=0, description="scatter of the trailing of the stars [px]")
    reference_seeing: float = Field(0.8, gt=0, description="seeing of the reference over that of the science image")
    reference_depth: float = Field(4.0, gt=0, description="exposure of the reference over that of the science image")
    reference_scale: float = Field(1.0, gt=0, description="pixel scale of the reference over that of the science image")
    cosmics: float = Field(20.0, ge=0, le=1e6, description="cosmic rays per million pixels")
    hot_pixels: float = Field(30.0, ge=0, le=1e6, description="hot pixels and groups per million pixels")
    bad_columns: float = Field(1.0, ge=0, le=1e4, description="bad columns per image")
    trails: float = Field(0.3, ge=0, le=1e4, description="satellite and plane trails per image")
    ghosts: float = Field(0.5, ge=0, le=1e4, description="ghosts of bright stars per image")
    crosstalk: float = Field(0.0, ge=0, le=1, description="crosstalk of saturated stars, relative to their signal")
    bleed: bool = Field(True, description="saturated stars bleed along columns")
    defocus: float = Field(
        0.0, ge=0, le=3, description="diameter of the out-of-focus pupil over the seeing; it widens the PSF to a ring"
    )
    clouds: float = Field(
        0.0, ge=0, lt=1, description="largest loss of light in patches of thin cloud over the science image [relative]"
    )
    warm_pixels: float = Field(
        0.0, ge=0, le=1e5, description="warm pixels per million pixels, at the same places in all images"
    )
    reference_warm_pixels: float = Field(
        0.2, ge=0, le=1, description="share of their charge that the reference keeps, smeared by its registration"
    )
    banding: float = Field(0.0, ge=0, le=10, description="offsets of rows and columns [noise of the background]")
    quantisation: float = Field(
        0.0, ge=0, le=10, description="step of the converter [noise of the background]; 0: real numbers"
    )
    resampled: Literal["none", "bilinear", "lanczos"] = Field(
        "none", description="interpolation of the science image at shifted pixels, which correlates its noise"
    )
    reference_resampled: Literal["none", "bilinear", "lanczos"] = Field("none", description="that of the reference")
    reference_smoothing: float = Field(
        0.0, ge=0, le=5, description="sigma of a Gaussian that smooths the reference [its px]"
    )
    reference_holes: float = Field(
        0.0, ge=0, le=1, description="share of the bright stars that are NaN, 0, too low or negative in the reference"
    )
    reference_missing: float = Field(
        0.0, ge=0, le=1, description="share of the stars that the reference lacks (left out as known variables)"
    )
    no_data: float = Field(0.0, ge=0, le=0.5, description="share of the pixels of a science image without data")
    reference_no_data: float = Field(0.0, ge=0, le=0.5, description="share of the pixels of a reference without data")
    no_data_value: float | None = Field(
        None, allow_inf_nan=False, description="what is written for pixels without data (null: NaN)"
    )
    sky_removed: Literal["none", "science", "reference", "both"] = Field(
        "none", description="images from which the sky was subtracted"
    )
    offset: float = Field(
        0.0, ge=-1e4, le=1e4, description="what is added to all pixels of both images [noise of the background]"
    )
    clipped: bool = Field(False, description="negative pixels of both images are written as 0")
    gain_error: float = Field(0.0, gt=-0.9, le=9, description="error of the gain in the headers [relative]")
    saturation_error: float = Field(
        0.0, gt=-0.9, le=9, description="error of the saturation level in the headers [relative]"
    )


class Telescope(Section):
    """One telescope. A value that is assumed is written `{assumed: VALUE, because: REASON}`."""

    name: Name = Field(description="name: that of the file or of the entry; models are registered as otrain-{name}")
    source: Literal["simulated", "images", "folders"] = Field(
        "images", description="simulated sky, the images sheet, or ready-made True/ and False/ folders of FITS cutouts"
    )
    folder: str | None = Field(
        None, description="folder that holds True/ and False/, relative to data_root (source folders)"
    )
    catalogue: str | None = Field(
        None,
        description="star catalogue: a CSV file (ra, dec [deg], mag; color), gaia or panstarrs (network); simulated telescopes have their own",
    )
    known: str | None = Field(
        None,
        description="known variables and moving objects, taken out of False: a CSV file (ra, dec [deg]), or vsx, skybot or skybot:CODE with the IAU code of the observatory (network), joined by +; simulated telescopes know their own",
    )
    detector: Detector = Detector()
    sky: SimulatedSky | None = Field(None, description="what is simulated (source simulated, and no other)")
    assumptions: dict[str, str] = Field(
        {}, description="reasons of the assumed values, by section and key (filled from `{assumed, because}`)"
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_assumptions(cls, values: Any) -> Any:
        """Put plain values in place of ``{assumed, because}``, and the reasons into `assumptions`."""
        if not isinstance(values, Mapping):
            return values
        plain, reasons = dict(values), dict(values.get("assumptions") or {})
        for section in ("detector", "sky"):
            if isinstance(values.get(section), Mapping):
                plain[section] = dict(values[section])
                for key, value in values[section].items():
                    if isinstance(value, Mapping) and "assumed" in value:
                        plain[section][key], reasons[f"{section}.{key}"] = value["assumed"], _reason(key, value)
        return plain | {"assumptions": reasons}

    def sources(self, key: str) -> list[str]:
        """Files and names of services under `key` (catalogue or known)."""
        return [name.strip() for name in (getattr(self, key) or "").split("+") if name.strip()]

    @model_validator(mode="after")
    def _sources_are_of_their_kind(self):
        """A service of the wrong kind, or two catalogues, would fail in the first job that asks for it."""
        allowed = {"catalogue": NETWORK_CATALOGUES, "known": NETWORK_KNOWN}
        for key, services in allowed.items():
            for name in self.sources(key):
                service, colon, code = name.partition(":")
                if is_service(name) and service not in services:
                    raise ValueError(f"{key}: {name!r} is not among {', '.join(services)}, nor a CSV file")
                if is_service(name) and colon and (service != "skybot" or not code.isalnum()):
                    raise ValueError(f"{key}: only skybot takes a code, as in skybot:950, found {name!r}")
        if len(self.sources("catalogue")) > 1:
            raise ValueError(f"catalogue: one file or service is needed, found {self.catalogue!r}")
        return self

    @model_validator(mode="after")
    def _source_is_complete(self):
        if self.name in RESERVED_NAMES:
            raise ValueError(f"{self.name!r} is the name of a folder of results")
        if self.source == "folders" and not self.folder:
            raise ValueError("folder is needed for a telescope with source folders")
        if (self.source == "simulated") != (self.sky is not None):
            raise ValueError("the section sky is needed for a telescope with source simulated, and for no other")
        if self.source == "simulated":
            for key in ("pixel_scale", "gain", "read_noise", "saturation"):
                if getattr(self.detector, key) is None:
                    raise ValueError(f"detector.{key} is needed for a simulated telescope")
            if self.catalogue or self.known:
                raise ValueError("catalogue and known are not for a simulated telescope, which has its own")
        return self


def is_service(name: str) -> bool:
    """Whether a source of a catalogue is a network service, not a file."""
    return name.split(":")[0] in (*NETWORK_CATALOGUES, *NETWORK_KNOWN)


def _reason(key: str, value: Mapping[str, Any]) -> str:
    reason = value.get("because")
    if set(value) != {"assumed", "because"} or not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"{key}: an assumed value is written {{assumed: VALUE, because: REASON}}")
    return reason


def read_telescopes(folder: str | Path, entries: Mapping[str, Any] | None = None) -> dict[str, Telescope]:
    """Telescopes of a folder of YAML files and of the configuration, by name.

    Parameters
    ----------
    folder : path-like
        Holds one file NAME.yaml for each telescope.
    entries : mapping, optional
        Entries of the configuration (key `telescopes`), laid over those of the folder, key by key.

    Raises
    ------
    ConfigError
        No such folder and no entries, a sheet of the old kind, or an entry with an unknown key or a bad value.
    """
    folder, entries = Path(folder), entries or {}
    if folder.suffix == ".csv" or folder.is_file():
        raise ConfigError(f"telescope_folder: {folder}: {OLD_SHEET}")
    if not folder.is_dir() and not entries:
        raise ConfigError(f"telescope_folder: {folder}: no such folder")
    found = {path.stem: (read_yaml(path), str(path)) for path in sorted(folder.glob("*.yaml"))}
    for name, entry in entries.items():
        values, _ = found.get(name, ({}, ""))
        found[name] = lay_over(values, entry or {}), f"telescopes.{name}"
    telescopes = {}
    for name, (values, where) in found.items():
        if values.get("name", name) != name:
            raise ConfigError(f"{where}: name: {values['name']!r} is not the name of the file or entry, {name!r}")
        try:
            telescopes[name] = Telescope.model_validate(values | {"name": name})
        except ValidationError as error:
            raise ConfigError(explain_first(error, where)) from None
    return telescopes


def lay_over(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes` in their place, section by section."""
    merged = dict(values)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = lay_over(merged[key], value) if both else value
    return merged


OLD_SHEET = (
    "telescopes are YAML entries now, not rows of a sheet: write one file NAME.yaml for each telescope into "
    "telescope_folder, or put the entries under telescopes in the configuration (config/telescopes shows them)"
)
