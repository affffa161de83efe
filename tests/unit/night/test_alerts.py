"""Alert packets, read back by fastavro with the schema of ZTF: equal stamps, missing values stay missing."""

import gzip
import io

import fastavro
import numpy as np
import pytest
from astropy.io import fits

from otrain_core.candidates.cutouts import CHANNELS
from otrain_core.night.alerts import alert_packet, band, schema, write_alerts
from tests.unit.night.detections import RECORD, detection, images

STAMP = np.random.default_rng(1).normal(size=(9, 9, len(CHANNELS))).astype(np.float32)


def packet(item, seen=(), **record):
    records = {image["number"]: image["record"] | {"name": image["name"]} | record for image in images()}
    return alert_packet(item, STAMP, seen, records=records, model="demo/otrain2/1")


def pixels(cutout):
    with fits.open(io.BytesIO(gzip.decompress(cutout["stampData"]))) as hdus:
        return hdus[0].data


def test_packets_are_read_back_with_equal_stamps(tmp_path):
    items = [detection(1, "c1"), detection(2, "c2"), detection(2, "alone", object=None, object_name="", ra=None)]
    stamps = {"c2": STAMP, "alone": STAMP}
    write_alerts(tmp_path, items[1:], stamps, history=items, images=images(), model="demo/otrain2/1")
    assert [path.name for path in tmp_path.iterdir()] == ["c2.avro"]  # no packet without a sky position
    with open(tmp_path / "c2.avro", "rb") as file:
        (found,) = fastavro.reader(file, reader_schema=schema())
    assert found["schemavsn"] == "4.02" and found["objectId"] == "J004000.00+200000.0"
    for name, channel in (("Science", "science"), ("Template", "reference"), ("Difference", "difference")):
        np.testing.assert_array_equal(pixels(found[f"cutout{name}"]), STAMP[:, :, CHANNELS.index(channel)])
    (earlier,) = found["prv_candidates"]
    assert earlier["jd"] == pytest.approx(2460370.5 + 2 / 24) and earlier["isdiffpos"] == "t"
    assert earlier["candid"] != found["candid"] and found["candid"] == found["candidate"]["candid"] > 0


def test_the_fields_of_a_candidate():
    found = packet(
        detection(2, "c2", n_images=2, n_covered=3, known="Ceres", known_kind="moving", known_distance=4.0),
        [detection(1, "c1")],
    )
    assert fastavro.validation.validate(found, schema(), strict=False)
    candidate = found["candidate"]
    assert candidate["magpsf"] == pytest.approx(25 - 7.5) and candidate["sigmapsf"] == pytest.approx(0.0543, abs=1e-4)
    assert candidate["drb"] == 0.9 and candidate["drbversion"] == "demo/otrain2/1" and candidate["fid"] == 2
    assert (candidate["ndethist"], candidate["ncovhist"]) == (2, 3)
    assert candidate["jdendhist"] - candidate["jdstarthist"] == pytest.approx(10 / 1440, abs=1e-8)
    assert candidate["distnr"] == 2.0 and candidate["exptime"] == 60.0
    assert (candidate["ssnamenr"], candidate["ssdistnr"]) == ("Ceres", 4.0)
    assert candidate["jdstartref"] == 2460341.5


def test_a_source_that_faded_has_its_planes_as_ztf_has_them():
    found = packet(detection(1, "c1", sign=-1, flux=-1000.0))
    assert found["candidate"]["isdiffpos"] == "f" and found["candidate"]["magpsf"] == pytest.approx(17.5)
    # Science and reference are exchanged in the stamps of such a source.
    np.testing.assert_array_equal(pixels(found["cutoutScience"]), STAMP[:, :, CHANNELS.index("reference")])
    np.testing.assert_array_equal(pixels(found["cutoutTemplate"]), STAMP[:, :, CHANNELS.index("science")])


def test_instrumental_magnitudes_are_missing_not_wrong():
    found = packet(detection(1, "c1"), zero_point_source="assumed", reference_time="")
    assert np.isnan(found["candidate"]["magpsf"]) and found["candidate"]["diffmaglim"] is None
    assert np.isnan(found["candidate"]["jdstartref"])
    assert fastavro.validation.validate(found, schema(), strict=False)


def test_unknown_numbers_are_null_and_unknown_times_left_out_of_the_history():
    candidate = packet(detection(1, "c1", snr=np.nan, probability=np.nan))["candidate"]
    assert candidate["scorr"] is None and candidate["drb"] is None
    for seen in ("", "2024-03-01T03:00:00"), ("2024-03-01T03:00:00", ""):
        candidate = packet(
            detection(1, "c1", time="2024-03-01T02:00:00"),
            [detection(k, f"c{k}", time=time) for k, time in zip((2, 3), seen, strict=True)],
        )["candidate"]
        assert candidate["jdendhist"] - candidate["jdstarthist"] == pytest.approx(1 / 24, abs=1e-8)


def test_the_same_candidate_is_the_same_packet():
    assert packet(detection(1, "c1")) == packet(detection(1, "c1"))
    assert packet(detection(1, "c1"))["candid"] != packet(detection(1, "c2"))["candid"]


def test_the_schema_names_what_brokers_read():
    names = [field["name"] for field in schema()["fields"]]
    assert names[:5] == ["schemavsn", "publisher", "objectId", "candid", "candidate"]
    assert {"prv_candidates", "fp_hists", "cutoutScience", "cutoutTemplate", "cutoutDifference"} <= set(names)
    candidate = schema()["fields"][4]["type"]["fields"]
    assert len(candidate) == 103 and candidate[0] == {"name": "jd", "type": "double"}
    assert RECORD["zero_point_source"] == "header"


@pytest.mark.parametrize(
    ("name", "letter"),
    [("r", "r"), ("R", "R"), ("SDSS-g", "g"), ("gp", "g"), ("i'", "i"), ("Bessel V", "V"), ("Clear", "clear"), ("Ha", "Ha"), ("", "")],
)  # fmt: skip
def test_bands(name, letter):
    assert band(name) == letter
