"""Write candidates as alert packets: Avro files in the schema of the Zwicky Transient Facility, which brokers read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from otrain_core.candidates.cutouts import CHANNELS
from otrain_core.io import atomic, plain_values
from otrain_core.night.context import mjd

VERSION = "4.02"  # of the schema
PUBLISHER = "O'TRAIN"
FILTERS = {"g": 1, "r": 2, "R": 2, "i": 3, "I": 3}  # values of the field fid; 0 for any other filter
JD = 2400000.5  # Julian date of MJD 0


@cache
def schema() -> Any:
    """The parsed schema of a packet."""
    import fastavro

    return fastavro.parse_schema(json.loads(Path(__file__).with_name("ztf_alert.avsc").read_text(encoding="utf-8")))


def write_alerts(
    folder: str | Path,
    items: Sequence[Mapping[str, Any]],
    stamps: Mapping[str, np.ndarray],
    *,
    history: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
    model: str,
) -> None:
    """Write one packet, CANDID.avro, for each candidate of an image.

    Parameters
    ----------
    folder : path-like
    items : sequence of mapping
        Detections with their context. Those without a sky position get no packet, because the schema requires one.
    stamps : mapping of str to numpy.ndarray
        (S, S, 5) by candid, channels `otrain_core.candidates.cutouts.CHANNELS`.
    history : sequence of mapping
        All detections of the night so far.
    images : sequence of mapping
        Images of the night, from the ledger.
    model : str
        Name of the classifier.
    """
    import fastavro

    records = {image["number"]: image["record"] | {"name": image["name"]} for image in images}
    of_object: dict[Any, list[Mapping[str, Any]]] = {}
    for item in history:
        of_object.setdefault(item["object"], []).append(item)
    for item in items:
        if not item["object"]:
            continue
        seen = [other for other in of_object[item["object"]] if other["image"] != item["image"]]
        packet = alert_packet(item, stamps[item["candid"]], seen, records=records, model=model)
        with atomic(Path(folder, f"{item['candid']}.avro")) as temporary, open(temporary, "wb") as file:
            fastavro.writer(file, schema(), [packet])


def alert_packet(
    item: Mapping[str, Any],
    stamp: np.ndarray,
    seen: Sequence[Mapping[str, Any]],
    *,
    records: Mapping[int, Mapping[str, Any]],
    model: str,
) -> dict[str, Any]:
    """The fields of one packet by their names in the schema; fields without a known value keep their defaults.

    ``drb`` is the calibrated probability, ``fid`` is 0 for filters that ZTF does not have, ``distnr`` is in pixels of
    the image, and magnitudes are NaN if the zero point is assumed. For a source fainter than in the reference,
    ``isdiffpos`` is f and the difference is reference - science.

    Parameters
    ----------
    item : mapping
        The detection.
    seen : sequence of mapping
        Detections of the same object in other images.
    stamp : numpy.ndarray
        (S, S, 5)
    records : mapping
        Records of the images by their number, with ``name``.
    model : str
        Name of the classifier.

    Returns
    -------
    dict
    """
    record = records[item["image"]]
    times = [time for time in map(_jd, (item, *seen)) if np.isfinite(time)]
    candidate = _detection(item, record, model) | {
        "ranr": _number(item["source_ra"]),
        "decnr": _number(item["source_dec"]),
        "ndethist": int(item["n_images"]),
        "ncovhist": int(item["n_covered"]),
        "jdstarthist": min(times, default=np.nan),
        "jdendhist": max(times, default=np.nan),
        "nmtchps": 0,  # Pan-STARRS is not queried
        "rfid": _long(str(record.get("reference"))),
        "jdstartref": mjd(record.get("reference_time")) + JD,
        "jdendref": mjd(record.get("reference_time")) + JD,
        "nframesref": 0,  # unknown
        "nmatches": 0,
        "exptime": record.get("exposure"),
        "drb": plain_values(item["probability"]),
        "drbversion": model,
    }
    if item["known_kind"] == "moving":
        candidate |= {"ssdistnr": item["known_distance"], "ssnamenr": item["known"]}
    planes = _planes(stamp, item["sign"])
    return {
        "schemavsn": VERSION,
        "publisher": PUBLISHER,
        "objectId": item["object_name"],
        "candid": _long(item["candid"]),
        "candidate": candidate,
        "prv_candidates": [_detection(other, records[other["image"]], model, earlier=True) for other in seen] or None,
        "cutoutScience": _cutout(item["candid"], "science", planes),
        "cutoutTemplate": _cutout(item["candid"], "reference", planes),
        "cutoutDifference": _cutout(item["candid"], "difference", planes),
    }


def _detection(
    item: Mapping[str, Any], record: Mapping[str, Any], model: str, *, earlier: bool = False
) -> dict[str, Any]:
    """The fields that the candidate of a packet and an earlier candidate have in common."""
    calibrated = record.get("zero_point_source") != "assumed"
    mag, magerr = magnitude(item, record) if calibrated else (np.nan, np.nan)
    scale = record.get("pixel_scale") or np.nan
    fields = {
        "jd": _jd(item),
        "fid": FILTERS.get(band(item["filter"]), 0),
        "pid": _long(str(record["name"])),
        "diffmaglim": record.get("limit_mag") if calibrated else None,
        "programid": 0,
        "candid": _long(item["candid"]),
        "isdiffpos": "t" if item["sign"] > 0 else "f",
        "xpos": item["x"],
        "ypos": item["y"],
        "ra": item["ra"],
        "dec": item["dec"],
        "magpsf": mag,
        "sigmapsf": magerr,
        "distnr": item["source_distance"] / scale if item["source_distance"] is not None else None,
        "magnr": item["source_mag"] if calibrated else None,
        "fwhm": item["fwhm"],
        "mindtoedge": item["edge_distance"],
        "scorr": plain_values(item["snr"]),
        "magzpsci": record.get("zero_point") if calibrated else None,
        "rbversion": model,
    }
    return fields | ({"ranr": item["source_ra"], "decnr": item["source_dec"]} if earlier else {})


def magnitude(item: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[float, float]:
    """Magnitude and error of the absolute flux of the difference; NaN without a zero point or flux."""
    zero_point = record.get("zero_point")
    flux, error = _number(item["flux"]), _number(item["fluxerr"])
    if zero_point is None or not abs(flux) > 0:
        return np.nan, np.nan
    return float(zero_point - 2.5 * np.log10(abs(flux))), float(2.5 / np.log(10) * error / abs(flux))


def band(name: str) -> str:
    """Letter of a filter: lower case for Sloan, upper case for Johnson and Cousins; other names are returned unchanged."""
    text = name.strip()
    if found := re.fullmatch(
        r"(?:sdss|sloan|ps1)?[ _.-]*([ugriz])(?:'|p|[ _.-]*(?:sdss|sloan|ps1))?", text, flags=re.I
    ):
        sloan = re.search("sdss|sloan|ps1|'|p", text, flags=re.I)
        return found[1].lower() if sloan else found[1]
    if found := re.fullmatch(
        r"(?:bessel+|johnson|cousins)?[ _.-]*([UBVRI])(?:[ _.-]*(?:bessel+|johnson|cousins))?", text, flags=re.I
    ):
        return found[1].upper()
    return "clear" if text.lower() in ("clear", "open", "none", "unfiltered") else text


def _planes(stamp: np.ndarray, sign: int) -> dict[str, np.ndarray]:
    """Planes by name; in the stamps of a source that faded, science and reference are exchanged."""
    names = ("science", "reference", "difference") if sign > 0 else ("reference", "science", "difference")
    channels = (CHANNELS.index(name) for name in ("science", "reference", "difference"))
    return {name: stamp[:, :, channel] for name, channel in zip(names, channels, strict=True)}


def _cutout(candid: str, name: str, planes: Mapping[str, np.ndarray]) -> dict[str, Any]:
    from astropy.io import fits

    buffer = io.BytesIO()
    fits.PrimaryHDU(np.asarray(planes[name], np.float32)).writeto(buffer)
    return {"fileName": f"{candid}_{name}.fits.gz", "stampData": gzip.compress(buffer.getvalue(), mtime=0)}


def _jd(item: Mapping[str, Any]) -> float:
    return mjd(item["time"]) + JD


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _long(text: str) -> int:
    """A number of 63 bits derived from a name, the same in every run."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
