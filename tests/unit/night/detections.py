"""Detections of a night as the ledger returns them, with their context."""

import numpy as np

from otrain_core.night.search import COLUMNS

RECORD = {
    "name": "im",
    "zero_point": 25.0,
    "zero_point_source": "header",
    "limit_mag": 20.5,
    "exposure": 60.0,
    "pixel_scale": 2.0,
    "seeing_px": 2.5,
    "reference": "reference.fits",
    "reference_time": "2024-02-01T00:00:00",
    "filter": "r",
}


def images(n=3):
    """Images of the ledger, numbered from 1."""
    corners = [[9.9, 19.9], [10.1, 19.9], [10.1, 20.1], [9.9, 20.1]]
    records = [RECORD | {"footprint": corners, "time": f"2024-03-01T02:{10 * k:02d}:00"} for k in range(n)]
    return [{"number": k + 1, "name": f"im{k + 1}", "record": record} for k, record in enumerate(records)]


def detection(image=1, candid="c", **values):
    """One detection; ra, dec, flux and so on as given."""
    item = {name: None for name in COLUMNS} | {
        "image": image,
        "image_name": f"im{image}",
        "candid": candid,
        "object": 1,
        "object_name": "J004000.00+200000.0",
        "x": 30.0,
        "y": 40.0,
        "ra": 10.0,
        "dec": 20.0,
        "flux": 1000.0,
        "fluxerr": 50.0,
        "snr": 20.0,
        "sign": 1,
        "probability": 0.9,
        "real": 1,
        "undecided": 0,
        "reason": "",
        "known": "",
        "known_kind": "",
        "time": f"2024-03-01T02:{10 * (image - 1):02d}:00",
        "filter": "r",
        "n_images": 1,
        "n_covered": 1,
        "n_detector": 1,
        "source_distance": 4.0,
        "source_mag": 17.0,
        "source_ra": 10.001,
        "source_dec": 20.0,
    }
    item |= {"object_ra": item["ra"], "object_dec": item["dec"]}
    return item | values


def store(ledger, image, items, *, night="2024-02-29"):
    """Record an image with detections in a ledger."""
    number, _ = ledger.begin(str(image), path="x", name=f"im{image}")
    table = {name: np.array([np.nan if item[name] is None else item[name] for item in items]) for name in items[0]}
    counts = {"n": len(items), "real": 1, "undecided": 0, "unlike_training": 0, "subtraction": {"noise_spread": 1.0}}
    record = images()[0]["record"] | counts | {"time": items[0]["time"]}
    with ledger.finish(number, night=night, record=record, table=table, radius=2.0):
        pass
