"""Reports: the JSON has the fields that each service documents, and only the objects to be reported."""

import json

import jsonschema
import pytest

from otrain_core.errors import ConfigError
from otrain_core.night.reports import read_report, reported_objects, write_report
from tests.unit.night.detections import detection, images

# As the TNS (Bulk reports manual) and SkyPortal (POST /api/candidates, /api/photometry, /api/sources/ID/annotations)
# publish their fields.
NUMBER = {"type": "string", "pattern": "^[+-]?[0-9]+([.][0-9]+)?$"}
CODE = {"type": "string", "pattern": "^[0-9]+$"}
TIME = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}[.0-9]*$"}
PLACE = {"type": "object", "required": ["value"], "properties": {"value": NUMBER}}
POINT = {
    "type": "object",
    "required": ["obsdate", "flux", "flux_units", "filter_value", "instrument_value"],
    "additionalProperties": False,
    "properties": {
        "obsdate": TIME, "flux": NUMBER, "flux_error": NUMBER, "limiting_flux": NUMBER, "flux_units": CODE,
        "filter_value": CODE, "instrument_value": CODE, "exptime": NUMBER, "observer": {"type": "string"},
        "comments": {"type": "string"},
    },
}  # fmt: skip
ENTRY = {
    "type": "object",
    "required": [
        "ra", "dec", "reporting_group_id", "discovery_data_source_id", "reporter", "discovery_datetime", "at_type",
        "photometry", "non_detection",
    ],
    "additionalProperties": False,
    "properties": {
        "ra": PLACE, "dec": PLACE, "reporting_group_id": CODE, "discovery_data_source_id": CODE,
        "reporter": {"type": "string", "minLength": 1}, "discovery_datetime": TIME, "at_type": CODE,
        "internal_name": {"type": "string"}, "remarks": {"type": "string"},
        "non_detection": {"type": "object", "required": ["archiveid", "archival_remarks"]},
        "photometry": {
            "type": "object",
            "required": ["photometry_group"],
            "properties": {"photometry_group": {"type": "object", "minProperties": 1, "additionalProperties": POINT}},
        },
    },
}  # fmt: skip
TNS = {
    "type": "object",
    "required": ["at_report"],
    "additionalProperties": False,
    "properties": {"at_report": {"type": "object", "additionalProperties": ENTRY}},
}
NUMBERS, IDS = {"type": "array", "items": {"type": "number"}}, {"type": "array", "items": {"type": "integer"}}
SKYPORTAL = {
    "type": "object",
    "required": ["candidates", "photometry", "annotations"],
    "properties": {
        "candidates": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "ra", "dec", "filter_ids", "passed_at"],
                "properties": {
                    "id": {"type": "string"}, "ra": {"type": "number"}, "dec": {"type": "number"},
                    "score": {"type": "number"}, "filter_ids": IDS | {"minItems": 1},
                    "passed_at": {"type": "string", "pattern": "^[0-9-]{10}T[0-9:]{8}[+]00:00$"},
                    "varstar": {"type": "boolean"}, "is_roid": {"type": "boolean"},
                },
                "additionalProperties": False,
            },
        },
        "photometry": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["magsys", "limiting_mag", "mjd", "filter", "obj_id", "instrument_id", "mag", "magerr"],
                "properties": {
                    "obj_id": {"type": "string"}, "instrument_id": {"type": "integer"}, "mjd": NUMBERS, "mag": NUMBERS,
                    "magerr": NUMBERS, "limiting_mag": NUMBERS, "ra": NUMBERS, "dec": NUMBERS, "group_ids": IDS,
                    "filter": {"type": "array", "items": {"type": "string"}}, "magsys": {"enum": ["ab", "vega"]},
                    "limiting_mag_nsigma": {"type": "number"},
                },
                "additionalProperties": False,
            },
        },
        "annotations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["obj_id", "origin", "data"],
                "properties": {"data": {"type": "object", "minProperties": 1}, "group_ids": IDS},
            },
        },
    },
}  # fmt: skip
ABOUT = {
    "tns": "reporting_group_id: 66\ndiscovery_data_source_id: 67\nreporter: A. Person\ninstrument: 5\n",
    "skyportal": "filter_ids: [1]\ninstrument_id: 3\ngroup_ids: [7]\n",
}
ITEMS = [
    detection(
        2, "c2", probability=0.99, n_images=2, n_covered=3, known="V1", known_kind="variable", known_distance=3.0
    ),
    detection(1, "c1", n_images=2, n_covered=3),
]


def report(tmp_path, service, items=ITEMS, more="", records=None):
    (tmp_path / "about.yaml").write_text(ABOUT[service] + more)
    write_report(tmp_path / "out.json", read_report(service, tmp_path / "about.yaml"), items, records or images())
    return json.loads((tmp_path / "out.json").read_text())


def test_tns(tmp_path):
    found = report(tmp_path, "tns")
    jsonschema.validate(found, TNS)
    (entry,) = found["at_report"].values()
    assert entry["discovery_datetime"] == "2024-03-01 02:00:00.000" and entry["internal_name"] == "J004000.00+200000.0"
    assert float(entry["ra"]["value"]) == 10.0 and entry["dec"]["value"] == "+20.000000"
    assert "seen in 2 of 3 images" in entry["remarks"] and "V1 (variable) within 3.0 arcsec" in entry["remarks"]
    points = entry["photometry"]["photometry_group"]
    assert [points[k]["obsdate"] for k in "01"] == ["2024-03-01 02:00:00.000", "2024-03-01 02:10:00.000"]
    assert points["0"]["flux"] == "17.500" and points["0"]["filter_value"] == "22" and points["0"]["exptime"] == "60"


@pytest.mark.parametrize(
    ("name", "more", "value"), [("L", "", "0"), ("L", "filters: {L: 18}\n", "18"), ("V", "", "12")]
)
def test_tns_filters(tmp_path, name, more, value):
    (entry,) = report(tmp_path, "tns", [detection(1, "c", filter=name)], more)["at_report"].values()
    assert entry["photometry"]["photometry_group"]["0"]["filter_value"] == value


def test_skyportal(tmp_path):
    found = report(tmp_path, "skyportal")
    jsonschema.validate(found, SKYPORTAL)
    (candidate,), (photometry,), (annotation,) = (found[name] for name in ("candidates", "photometry", "annotations"))
    assert candidate["id"] == photometry["obj_id"] == annotation["obj_id"] == "J004000.00+200000.0"
    assert candidate["score"] == 0.99 and candidate["varstar"] and not candidate["is_roid"]
    assert photometry["mjd"] == pytest.approx([60370 + 2 / 24, 60370 + 2 / 24 + 10 / 1440])
    assert photometry["filter"] == ["sdssr", "sdssr"] and photometry["mag"] == [17.5, 17.5]
    assert annotation["data"]["known"] == "V1" and annotation["group_ids"] == [7]


def test_a_filter_without_a_bandpass_has_no_photometry(tmp_path, caplog):
    items = [detection(1, "c", filter="L")]
    found = report(tmp_path, "skyportal", items)
    jsonschema.validate(found, SKYPORTAL)
    assert found["photometry"] == [] and len(found["candidates"]) == 1 and "filter 'L' has no bandpass" in caplog.text
    assert report(tmp_path, "skyportal", items, "filters: {L: white}\n")["photometry"][0]["filter"] == ["white"]


@pytest.mark.parametrize(
    "values",
    [
        {"real": 0},
        {"undecided": 1},
        {"sign": -1, "flux": -1000.0},
        {"object": None},
        {"n_detector": 3},
        {"time": ""},
        {"flux": None},
    ],
)
def test_what_is_not_reported(tmp_path, values):
    assert report(tmp_path, "tns", [detection(1, "c", **values)]) == {"at_report": {}}


def test_instrumental_magnitudes_are_not_reported():
    records = {image["number"]: image["record"] | {"zero_point_source": "assumed"} for image in images()}
    assert reported_objects(ITEMS, records) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "--report-about FILE is needed"), ("reporter: x\n", "reporting_group_id"), ("wrong: 1\n", "about.yaml")],
)
def test_who_reports_is_checked_before_any_work(tmp_path, text, words):
    path = tmp_path / "about.yaml"
    if text:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_report("tns", path if text else None)
