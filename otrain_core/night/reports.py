"""Write the objects of a night as JSON for SkyPortal or the Transient Name Server (TNS); nothing is sent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from otrain_core.errors import ConfigError
from otrain_core.io import plain_values, write_json
from otrain_core.night.alerts import band, magnitude
from otrain_core.night.context import certainty, is_fixed, mjd
from otrain_core.plan.sections import Section, explain_first, read_yaml

log = logging.getLogger("otrain")

# Filters in the notation of the two services (TNS: https://www.wis-tns.org/api/values; SkyPortal: sncosmo).
TNS_FILTERS = {"u": 20, "g": 21, "r": 22, "i": 23, "z": 24, "U": 10, "B": 11, "V": 12, "R": 13, "I": 14, "clear": 1}
SKYPORTAL_FILTERS = {band: f"sdss{band}" for band in "ugriz"} | {band: f"bessell{band.lower()}" for band in "BVRI"}
TNS_OTHER = 0
ANNOTATIONS = (
    "probability", "snr", "n_images", "n_covered", "motion", "motion_error", "source_distance", "source_mag",
    "saturated_distance", "edge_distance", "star_distance", "star_mag", "known", "known_kind", "known_distance",
)  # fmt: skip


class TnsReport(Section):
    """Who reports to the TNS; the codes are listed at https://www.wis-tns.org/api/values."""

    reporting_group_id: int = Field(description="code of the group that reports")
    discovery_data_source_id: int = Field(description="code of the group that owns the data")
    reporter: str = Field(min_length=1, description="names as they are to be published")
    instrument: int = Field(description="code of the camera")
    at_type: int = Field(1, description="1: possible supernova, 2: possible nova, 3: AGN, 4: nuclear, 0: other")
    flux_units: int = Field(1, description="code of the magnitude system; 1: AB")
    filters: dict[str, int] = Field({}, description="code by the filter name in the header, if the usual one is wrong")


class SkyPortalReport(Section):
    """Who reports to SkyPortal; the numbers are those of your SkyPortal server."""

    filter_ids: list[int] = Field(min_length=1, description="numbers of the candidate filters that the candidates pass")
    instrument_id: int = Field(description="number of the camera")
    group_ids: list[int] = Field([], description="numbers of the groups that see photometry and annotations")
    magsys: Literal["ab", "vega"] = Field("ab", description="magnitude system")
    origin: str = Field("otrain", min_length=1, description="origin of the annotations")
    filters: dict[str, str] = Field(
        {}, description="bandpass by the filter name in the header, if it is not an sdss or bessell one"
    )


SERVICES: dict[str, type[TnsReport] | type[SkyPortalReport]] = {"tns": TnsReport, "skyportal": SkyPortalReport}


def read_report(service: str, path: str | Path | None) -> TnsReport | SkyPortalReport:
    """Read from a YAML file who reports to a service.

    Parameters
    ----------
    service : str
        tns or skyportal.
    path : path-like or None

    Raises
    ------
    ConfigError
        There is no file, or one of its keys is missing or wrong.
    """
    section = SERVICES[service]
    if path is None:
        needed = [name for name, field in section.model_fields.items() if field.is_required()]
        raise ConfigError(
            f"--report {service}: --report-about FILE is needed too, a YAML file with the keys {', '.join(needed)}"
        )
    try:
        return section.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(explain_first(error, str(path))) from None


def write_report(
    path: str | Path,
    about: TnsReport | SkyPortalReport,
    detections: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
) -> None:
    """Write the report of a night, which has the objects of `reported_objects`.

    Parameters
    ----------
    path : path-like
    about : TnsReport or SkyPortalReport
    detections : sequence of mapping
        Detections of the night, with their context.
    images : sequence of mapping
        Images of the night, from the ledger.
    """
    records = {image["number"]: image["record"] for image in images}
    objects = reported_objects(detections, records)
    content = tns_report(objects, about) if isinstance(about, TnsReport) else skyportal_report(objects, about)
    write_json(path, plain_values(content))


def reported_objects(
    detections: Sequence[Mapping[str, Any]], records: Mapping[int, Mapping[str, Any]]
) -> list[list[dict[str, Any]]]:
    """Detections of each object that is reported, sorted by time, with magnitude, filter, limit and exposure.

    An object is reported if it has a sky position, became brighter, is called real and not undecided in at least one
    image, and is not fixed on the detector. Images without a time or with an assumed zero point are not used.

    Parameters
    ----------
    detections : sequence of mapping
        Detections of the night, with their context.
    records : mapping
        Records of the images by their number.

    Returns
    -------
    list of list of dict
    """
    of_object: dict[int, list[dict[str, Any]]] = {}
    for item in detections:
        record = records[item["image"]]
        usable = record.get("zero_point_source") != "assumed" and np.isfinite(mjd(item["time"]))
        if item["object"] is None or item["sign"] < 0 or not usable:
            continue
        mag, magerr = magnitude(item, record)
        if not np.isfinite(mag):
            continue
        more = {"mag": mag, "magerr": magerr, "limit": record.get("limit_mag"), "exposure": record.get("exposure")}
        of_object.setdefault(item["object"], []).append(dict(item) | more)
    return [
        sorted(items, key=lambda item: item["time"])
        for _, items in sorted(of_object.items())
        if any(item["real"] and not item["undecided"] for item in items) and not any(is_fixed(item) for item in items)
    ]


def tns_report(objects: Sequence[Sequence[Mapping[str, Any]]], about: TnsReport) -> dict[str, Any]:
    """The data of a bulk AT report (TNS, Bulk reports manual) with the first and last detection of each object."""
    entries = {}
    for number, items in enumerate(objects):
        first = items[0]
        shown = [first] if len(items) == 1 else [first, items[-1]]
        entries[str(number)] = {
            "ra": {"value": f"{first['ra']:.6f}"},
            "dec": {"value": f"{first['dec']:+.6f}"},
            "reporting_group_id": str(about.reporting_group_id),
            "discovery_data_source_id": str(about.discovery_data_source_id),
            "reporter": about.reporter,
            "discovery_datetime": _moment(first),
            "at_type": str(about.at_type),
            "internal_name": first["object_name"],
            "remarks": _remarks(items),
            "non_detection": {"archiveid": "0", "archival_remarks": "not in the reference that was subtracted"},
            "photometry": {"photometry_group": {str(k): _tns_point(item, about) for k, item in enumerate(shown)}},
        }
    return {"at_report": entries}


def _tns_point(item: Mapping[str, Any], about: TnsReport) -> dict[str, str]:
    number = about.filters.get(item["filter"], TNS_FILTERS.get(band(item["filter"]), TNS_OTHER))
    point = {
        "obsdate": _moment(item),
        "flux": f"{item['mag']:.3f}",
        "flux_error": f"{item['magerr']:.3f}",
        "flux_units": str(about.flux_units),
        "filter_value": str(number),
        "instrument_value": str(about.instrument),
        "comments": f"filter {item['filter']}; of the difference",
    }
    if item["limit"] is not None:
        point["limiting_flux"] = f"{item['limit']:.2f}"
    if item["exposure"] is not None:
        point["exptime"] = f"{item['exposure']:g}"
    return point


def _remarks(items: Sequence[Mapping[str, Any]]) -> str:
    best = max(items, key=certainty)
    words = f"seen in {best['n_images']} of {best['n_covered']} images; probability of a real source {best['probability']:.3f}"
    return words + (
        f"; {best['known']} ({best['known_kind']}) within {best['known_distance']:.1f} arcsec" if best["known"] else ""
    )


def skyportal_report(objects: Sequence[Sequence[Mapping[str, Any]]], about: SkyPortalReport) -> dict[str, Any]:
    """Bodies of the requests to SkyPortal, to be sent in this order.

    They are ``candidates`` (POST /api/candidates), ``photometry`` (POST /api/photometry) and ``annotations`` (POST
    /api/sources/OBJ_ID/annotations). Detections in a filter without a bandpass have no photometry; a warning says so.
    """
    content: dict[str, list[dict[str, Any]]] = {"candidates": [], "photometry": [], "annotations": []}
    passed = datetime.now(UTC).isoformat(timespec="seconds")
    for items in objects:
        best, name = max(items, key=certainty), items[0]["object_name"]
        content["candidates"].append(
            {
                "id": name,
                "ra": items[0]["ra"],
                "dec": items[0]["dec"],
                "score": best["probability"],
                "varstar": best["known_kind"] == "variable",
                "is_roid": best["known_kind"] == "moving",
                "filter_ids": about.filter_ids,
                "passed_at": passed,
            }
        )
        if photometry := _photometry(items, name, about):
            content["photometry"].append(photometry)
        data = {key: best[key] for key in ANNOTATIONS if plain_values(best[key]) not in (None, "")}
        content["annotations"].append(
            {"obj_id": name, "origin": about.origin, "data": data, "group_ids": about.group_ids}
        )
    return content


def _photometry(items: Sequence[Mapping[str, Any]], name: str, about: SkyPortalReport) -> dict[str, Any] | None:
    """Photometry of one object: the detections whose filter has a bandpass and whose image has a limit."""
    bands = [about.filters.get(item["filter"], SKYPORTAL_FILTERS.get(band(item["filter"]))) for item in items]
    for missing in sorted({item["filter"] for item, found in zip(items, bands, strict=True) if found is None}):
        log.warning(
            "%s: filter %r has no bandpass and its photometry is left out; name one with the key filters",
            name,
            missing,
        )
    kept = [(item, found) for item, found in zip(items, bands, strict=True) if found and item["limit"] is not None]
    if not kept:
        return None
    return {
        "obj_id": name,
        "instrument_id": about.instrument_id,
        "group_ids": about.group_ids,
        "magsys": about.magsys,
        "limiting_mag_nsigma": 5,
        "mjd": [mjd(item["time"]) for item, _ in kept],
        "filter": [found for _, found in kept],
        "mag": [item["mag"] for item, _ in kept],
        "magerr": [item["magerr"] for item, _ in kept],
        "limiting_mag": [item["limit"] for item, _ in kept],
        "ra": [item["ra"] for item, _ in kept],
        "dec": [item["dec"] for item, _ in kept],
    }


def _moment(item: Mapping[str, Any]) -> str:
    return datetime.fromisoformat(item["time"]).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
