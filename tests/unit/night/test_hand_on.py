"""Results of an image are kept completely or not at all; later images update the tables of earlier ones."""

import json

import fastavro
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from otrain_core.errors import ConfigError
from otrain_core.night.hand_on import HandOn, end_night, keep
from otrain_core.night.ledger import Ledger
from otrain_core.night.search import COLUMNS, Search
from tests.unit.night.detections import RECORD, detection


def found(image, candids, ra):
    """A search that found real candidates at these positions."""
    items = [
        detection(1, candid, ra=place, x=10.0 * k + 30 * image)
        for k, (candid, place) in enumerate(zip(candids, ra, strict=True))
    ]
    table = {name: np.array([np.nan if item[name] is None else item[name] for item in items]) for name in COLUMNS}
    table |= {name: table[name].astype(bool) for name in ("real", "undecided")}
    table |= {"time": np.full(len(items), f"2024-03-01T02:0{image}:00")}
    if not candids:
        table |= {name: np.empty(0, "U1") for name in ("candid", "object_name", "time")}
    stamps = np.zeros((len(items), 9, 9, 5), np.float32)
    record = RECORD | {
        "image": f"im{image}",
        "science": "x.fits",
        "n": len(items),
        "real": 0,
        "undecided": 0,
        "footprint": None,
    }
    return Search(table, stamps, {}, record)


def kept(ledger, folder, image, candids, ra, **options):
    number, name = ledger.begin(str(image), path="x", name=f"im{image}")
    options = {"name": name, "night": "n", "folder": folder, "gallery": 0, "hand_on": HandOn()} | options
    keep(found(image, candids, ra), ledger, number, **options)


def test_earlier_tables_learn_from_later_images(tmp_path):
    ledger = Ledger(":memory:")
    kept(ledger, tmp_path, 1, ["a1", "a2"], [10.0, 11.0])
    kept(ledger, tmp_path, 2, [], [])
    kept(ledger, tmp_path, 3, ["c1"], [10.0 + 1 / 3600])
    assert Table.read(tmp_path / "im1.ecsv")["n_images"].tolist() == [1, 1]
    assert Table.read(tmp_path / "im3.ecsv")["n_images"].tolist() == [2]
    end_night(ledger, "n", tmp_path, HandOn())
    first = Table.read(tmp_path / "im1.ecsv")
    assert first["n_images"].tolist() == [2, 1] and first.colnames == list(COLUMNS)
    assert first["object_name"][0] == "J004000.00+200000.0" and np.isfinite(first["motion"]).tolist() == [True, False]
    written = fits.getdata(tmp_path / "im1.fits")
    assert written["n_images"].tolist() == [2, 1] and written["known"].tolist() == ["", ""]


def test_alerts_and_report(tmp_path):
    (tmp_path / "about.yaml").write_text("filter_ids: [1]\ninstrument_id: 3\n")
    hand_on = HandOn.choose(
        alerts=str(tmp_path / "alerts"),
        service="skyportal",
        about=str(tmp_path / "about.yaml"),
        model={"telescope": "demo", "experiment": "otrain2", "seed": 0},
    )
    ledger = Ledger(":memory:")
    for image, candid in ((1, "a"), (2, "b")):
        kept(ledger, tmp_path, image, [candid], [10.0], hand_on=hand_on, part="n")
    end_night(ledger, "n", tmp_path, hand_on)
    with open(tmp_path / "alerts/n/b.avro", "rb") as file:
        (packet,) = fastavro.reader(file)
    assert packet["candidate"]["drbversion"] == "demo/otrain2/0" and len(packet["prv_candidates"]) == 1
    (photometry,) = json.loads((tmp_path / "skyportal.json").read_text())["photometry"]
    assert len(photometry["mjd"]) == 2


def test_what_cannot_be_written_is_not_noted(tmp_path, monkeypatch):
    ledger = Ledger(":memory:")
    with monkeypatch.context() as patch:
        patch.setattr("otrain_core.night.hand_on.write_search", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kept(ledger, tmp_path, 1, ["a"], [10.0])
    assert ledger.detections("n") == [] and ledger.status("1") == "working"
    kept(ledger, tmp_path, 1, ["a"], [10.0])
    assert [item["candid"] for item in ledger.detections("n")] == ["a"]


def test_a_hot_pixel_has_no_packet(tmp_path):
    ledger, hand_on = Ledger(":memory:"), HandOn(alerts=tmp_path / "alerts")
    for image in (1, 2):
        number, name = ledger.begin(str(image), path="x", name=f"im{image}")
        search = found(image, [f"c{image}"], [10.0 + 0.01 * image])
        search.table["x"][:] = 55.0
        keep(search, ledger, number, name=name, night="n", folder=tmp_path, gallery=0, hand_on=hand_on)
    assert [path.name for path in (tmp_path / "alerts").iterdir()] == [
        "c1.avro"
    ]  # in the first image it is not yet known to be a hot pixel


def test_who_reports_is_needed():
    with pytest.raises(ConfigError, match="--report-about"):
        HandOn.choose(alerts=None, service="tns", about=None, model={})
