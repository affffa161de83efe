"""Telescopes: typed entries in YAML files, one per telescope, or in the configuration."""

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

HIPS = "hips:"  # prefix of a reference that is fetched from a survey
NETWORK_CATALOGUES = ("gaia", "panstarrs")
NETWORK_KNOWN = ("vsx", "skybot")

HeaderValue = Literal["gain", "read_noise", "saturation", "filter", "exposure", "time", "zero_point"]


class Detector(Section):
    """Detector of a telescope: values that are missing or wrong in the headers of its images."""

    pixel_scale: float | None = Field(
        None,
        gt=0,
        description="pixel scale [arcsec/px]; needed if the header has neither a WCS nor XPIXSZ and FOCALLEN",
    )
    gain: float | None = Field(None, gt=0, description="gain [electron/ADU]")
    read_noise: float | None = Field(None, ge=0, description="read noise [electron]")
    saturation: float | None = Field(None, gt=0, description="saturation level [ADU]")
    filter: str = Field("clear", description="filter, if the header names none")
    type: Literal["ccd", "cmos"] = Field("ccd", description="type of the detector (cmos: no bleeding columns)")
    header: dict[HeaderValue, str] = Field({}, description="non-standard header keywords, by the value that they hold")
    wins: Literal["header", "config"] = Field(
        "header", description="source that takes precedence if both the header and this entry give a value"
    )
    unit: Literal["adu", "electron", "adu/s", "electron/s", "0..1"] | None = Field(
        None, description="unit of the pixels, if the header does not give it (BUNIT); 0..1: fractions of 65535 ADU"
    )
    fill: float | None = Field(
        None,
        allow_inf_nan=False,
        description="value of pixels without data (null: regions of one constant value along the image border are missing)",
    )
    extension: int | str | None = Field(
        None,
        description="number or name of the extension with the image, if a file has several (null: the only one that is not a "
        "mask, an error map or a preview)",
    )


class SimulatedSky(Section):
    """Sky and exposures of a simulated telescope."""

    n_images: int = Field(1, ge=1, le=9999, description="number of simulated science images, each of a different field")
    width: int = Field(1024, ge=64, le=20_000, description="width of the detector [px]")
    height: int = Field(1024, ge=64, le=20_000, description="height of the detector [px]")
    exposure: float = Field(60.0, gt=0, description="exposure time [s]")
    zero_point: float = Field(25.0, ge=-50, le=50, description="magnitude of a source with 1 ADU in the exposure")
    sky_mag: float = Field(20.5, ge=-50, le=50, description="sky brightness [mag/arcsec2]")
    seeing: float = Field(2.0, gt=0, description="median FWHM of stars, including the pixel [arcsec]")
    seeing_spread: float = Field(0.15, ge=0, le=2, description="relative scatter of the seeing between images")
    psf_beta: float = Field(3.0, gt=1.1, le=100, description="beta of the Moffat PSF")
    psf_ellipticity: float = Field(0.05, ge=0, lt=0.6, description="ellipticity of the PSF at the field centre")
    psf_variation: float = Field(
        0.1, ge=0, lt=1, description="relative change of the FWHM from the centre to the corners"
    )
    star_density: float = Field(400.0, ge=0, le=1e6, description="stars per million pixels down to the 5-sigma limit")
    variables: float = Field(
        0.0, ge=0, le=1e5, description="variable stars per image; half of them are in the list of known objects"
    )
    asteroids: float = Field(
        0.0, ge=0, le=1e5, description="moving objects per image; half of them are in the list of known objects"
    )
    color_term: float = Field(
        0.0, ge=-5, le=5, description="colour term between the science image and the reference [mag per mag of g - r]"
    )
    galaxy_density: float = Field(
        60.0, ge=0, le=1e6, description="galaxies per million pixels down to the 5-sigma limit"
    )
    pointing: float = Field(10.0, ge=0, description="scatter of the pointing between science image and reference [px]")
    rotation: float = Field(0.2, ge=0, le=180, description="scatter of the field rotation [deg]")
    wcs_error: float = Field(0.1, ge=0, description="scatter of the WCS solution of an image [px]")
    tracking: float = Field(0.3, ge=0, description="scatter of the star trailing due to tracking errors [px]")
    reference_seeing: float = Field(
        0.8, gt=0, description="ratio of the seeing of the reference to that of the science image"
    )
    reference_depth: float = Field(
        4.0, gt=0, description="ratio of the exposure time of the reference to that of the science image"
    )
    reference_scale: float = Field(
        1.0, gt=0, description="ratio of the pixel scale of the reference to that of the science image"
    )
    cosmics: float = Field(20.0, ge=0, le=1e6, description="cosmic rays per million pixels")
    hot_pixels: float = Field(30.0, ge=0, le=1e6, description="hot pixels and groups of hot pixels per million pixels")
    bad_columns: float = Field(1.0, ge=0, le=1e4, description="bad columns per image")
    trails: float = Field(0.3, ge=0, le=1e4, description="satellite and aircraft trails per image")
    ghosts: float = Field(0.5, ge=0, le=1e4, description="ghosts of bright stars per image")
    crosstalk: float = Field(0.0, ge=0, le=1, description="crosstalk of saturated stars, as a fraction of their signal")
    bleed: bool = Field(True, description="saturated stars bleed along columns")
    defocus: float = Field(
        0.0, ge=0, le=3, description="ratio of the diameter of the defocused pupil, a ring, to the seeing"
    )
    clouds: float = Field(
        0.0, ge=0, lt=1, description="maximum fraction of light lost in patches of thin cloud over the science image"
    )
    warm_pixels: float = Field(
        0.0, ge=0, le=1e5, description="warm pixels per million pixels, at the same positions in all images"
    )
    reference_warm_pixels: float = Field(
        0.2,
        ge=0,
        le=1,
        description="fraction of the charge of warm pixels that remains in the reference, smeared by its registration",
    )
    banding: float = Field(0.0, ge=0, le=10, description="scatter of row and column offsets [background noise]")
    quantisation: float = Field(
        0.0, ge=0, le=10, description="step of the analogue-to-digital converter [background noise] (0: no rounding)"
    )
    resampled: Literal["none", "bilinear", "lanczos"] = Field(
        "none", description="interpolation with which the science image is resampled, which correlates its noise"
    )
    reference_resampled: Literal["none", "bilinear", "lanczos"] = Field(
        "none", description="interpolation with which the reference is resampled"
    )
    reference_smoothing: float = Field(
        0.0, ge=0, le=5, description="sigma of a Gaussian that smooths the reference [px of the reference]"
    )
    reference_holes: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the bright stars that are NaN, 0, too faint or negative in the reference",
    )
    reference_missing: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the stars that are missing in the reference; they are left out like known variables",
    )
    no_data: float = Field(0.0, ge=0, le=0.5, description="fraction of the pixels of a science image without data")
    reference_no_data: float = Field(
        0.0, ge=0, le=0.5, description="fraction of the pixels of a reference without data"
    )
    no_data_value: float | None = Field(
        None, allow_inf_nan=False, description="value written for pixels without data (null: NaN)"
    )
    sky_removed: Literal["none", "science", "reference", "both"] = Field(
        "none", description="images whose sky background is subtracted"
    )
    offset: float = Field(
        0.0, ge=-1e4, le=1e4, description="constant added to all pixels of both images [background noise]"
    )
    clipped: bool = Field(False, description="negative pixels of both images are set to 0")
    gain_error: float = Field(0.0, gt=-0.9, le=9, description="relative error of the gain in the headers")
    saturation_error: float = Field(
        0.0, gt=-0.9, le=9, description="relative error of the saturation level in the headers"
    )


class Telescope(Section):
    """One telescope. An assumed value is written as `{assumed: VALUE, because: REASON}`."""

    name: Name = Field(
        description="name of the telescope, as of its file or entry; its models are registered as otrain-{name}"
    )
    source: Literal["simulated", "images", "folders"] = Field(
        "images",
        description="origin of the cutouts: a simulated sky, the sheet of images, or existing folders True/ and False/ of "
        "FITS cutouts",
    )
    folder: str | None = Field(
        None, description="folder with True/ and False/, relative to data_root (for source: folders)"
    )
    catalogue: str | None = Field(
        None,
        description="star catalogue: a CSV file (ra, dec [deg], mag; optionally color), gaia or panstarrs (network); not for "
        "simulated telescopes, which have their own",
    )
    known: str | None = Field(
        None,
        description="known variable stars and moving objects, which are left out of False: CSV files (ra, dec [deg]), vsx, "
        "and skybot or skybot:CODE with the IAU code of the observatory (network), joined by +; not for simulated "
        "telescopes, which have their own",
    )
    detector: Detector = Detector()
    sky: SimulatedSky | None = Field(None, description="options of the simulation (only for source: simulated)")
    assumptions: dict[str, str] = Field(
        {}, description="reasons for the assumed values, by section and key (filled from `{assumed, because}`)"
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_assumptions(cls, values: Any) -> Any:
        """Replace ``{assumed, because}`` by the value, and move the reason to `assumptions`."""
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
        """Files and names of services given by `key` (catalogue or known)."""
        return [name.strip() for name in (getattr(self, key) or "").split("+") if name.strip()]

    @model_validator(mode="after")
    def _sources_are_of_their_kind(self):
        """Refuse a service of the wrong kind, and more than one catalogue, before the first job needs them."""
        allowed = {"catalogue": NETWORK_CATALOGUES, "known": NETWORK_KNOWN}
        for key, services in allowed.items():
            for name in self.sources(key):
                service, colon, code = name.partition(":")
                if is_service(name) and service not in services:
                    raise ValueError(
                        f"{key}: {name!r} is not possible; give a CSV file, or one of {', '.join(services)}"
                    )
                if is_service(name) and colon and (service != "skybot" or not code.isalnum()):
                    raise ValueError(f"{key}: only skybot takes an observatory code, as in skybot:950, not {name!r}")
        if len(self.sources("catalogue")) > 1:
            raise ValueError(f"catalogue: must be one file or service, not {self.catalogue!r}")
        return self

    @model_validator(mode="after")
    def _source_is_complete(self):
        if self.name in RESERVED_NAMES:
            raise ValueError(f"{self.name!r} is reserved for a folder of the results; choose another name")
        if self.source == "folders" and not self.folder:
            raise ValueError("folder: needed for a telescope with source: folders")
        if self.source == "simulated" and self.sky is None:
            raise ValueError("sky: this section is needed for a telescope with source: simulated")
        if self.source != "simulated" and self.sky is not None:
            raise ValueError(f"sky: this section is only for source: simulated, but the source is {self.source}")
        if self.source == "simulated":
            for key in ("pixel_scale", "gain", "read_noise", "saturation"):
                if getattr(self.detector, key) is None:
                    raise ValueError(f"detector.{key}: needed for a simulated telescope")
            if self.catalogue or self.known:
                raise ValueError("catalogue and known: not for a simulated telescope, which has its own")
        return self


def is_service(name: str) -> bool:
    """Whether `name` is a network service and not a file."""
    return name.split(":")[0] in (*NETWORK_CATALOGUES, *NETWORK_KNOWN)


def _reason(key: str, value: Mapping[str, Any]) -> str:
    reason = value.get("because")
    if set(value) != {"assumed", "because"} or not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"{key}: write an assumed value as {{assumed: VALUE, because: REASON}}")
    return reason


def read_telescopes(folder: str | Path, entries: Mapping[str, Any] | None = None) -> dict[str, Telescope]:
    """Read the telescopes from a folder of YAML files and from the configuration.

    Parameters
    ----------
    folder : path-like
        Folder with one file NAME.yaml per telescope.
    entries : mapping, optional
        Entries of the configuration (key `telescopes`); their keys override those of the files.

    Returns
    -------
    dict of str to Telescope
        Telescopes by name.

    Raises
    ------
    ConfigError
        The folder is missing and there are no entries, the folder is a sheet of an old version, or an entry has an
        unknown key or an invalid value.
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
            raise ConfigError(
                f"{where}: name: {values['name']!r} differs from the name of the file or entry, {name!r}; delete this key"
            )
        try:
            telescopes[name] = Telescope.model_validate(values | {"name": name})
        except ValidationError as error:
            raise ConfigError(explain_first(error, where)) from None
    return telescopes


def lay_over(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `changes` into `values`, section by section; `changes` takes precedence."""
    merged = dict(values)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = lay_over(merged[key], value) if both else value
    return merged


OLD_SHEET = (
    "telescopes are YAML entries now, not rows of a sheet: write one file NAME.yaml per telescope into "
    "telescope_folder, or put the entries under telescopes in the configuration (see the examples in config/telescopes)"
)
