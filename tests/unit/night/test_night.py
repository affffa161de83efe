"""Search of a folder: every image once, despite kills, copies, broken files and a full disk."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import uniform_filter1d

from otrain_core.classify import Classifier
from otrain_core.classify.descriptors import DESCRIPTORS
from otrain_core.cli.main import main
from otrain_core.cubes.cube_format import read_cube
from otrain_core.errors import OtrainError
from otrain_core.io import digest
from otrain_core.night import night as module
from otrain_core.night.ledger import Ledger
from otrain_core.night.night import Night, night_of
from otrain_core.night.references import References
from otrain_core.plan.pipelines import Pipeline
from otrain_core.plan.recipe import Recipe
from otrain_core.plan.telescopes import Detector
from tests.unit.night.test_hand_on import found as searched
from tests.unit.synthetic_night import NEW


def images(folder, science, n):
    """Copies of a science image with different noise and time."""
    folder.mkdir()
    with fits.open(science) as hdus:
        data, header = hdus[0].data, hdus[0].header
    rng = np.random.default_rng(1)
    for k in range(n):
        header["DATE-OBS"] = f"2024-03-01T02:{k:02d}:00"
        fits.PrimaryHDU(data + rng.normal(0, 1, data.shape).astype(np.float32), header).writeto(folder / f"im{k}.fits")
    return folder


def a_night(folder, output, night_pair):
    _, reference, model = night_pair
    recipe = Recipe(Pipeline(), Detector(), telescope="T", name="builtin")
    return Night(folder, output, References(reference), Classifier.load(model), recipe)


def run(night):
    return night.run(once=True, stop=threading.Event(), tell=lambda text: None)


def test_a_night(night_pair, tmp_path):
    folder = images(tmp_path / "images", night_pair[0], 3)
    shutil.copy(folder / "im0.fits", folder / "copy.fits")
    (folder / "broken.fits").write_bytes(b"no FITS file at all")
    night = a_night(folder, tmp_path / "nights", night_pair)
    assert run(night) == {"done": 3, "refused": 1, "left_out": 0, "known": 1}
    assert run(night) == {"done": 0, "refused": 0, "left_out": 0, "known": 5}
    ledger = Ledger(tmp_path / "nights/ledger.sqlite")
    found = ledger.detections("2024-02-29")
    seen = {}
    for item in found:
        seen.setdefault(item["object"], set()).add(item["image"])
    assert sum(len(images) == 3 for images in seen.values()) >= len(NEW)  # the new sources are in all three
    page = (tmp_path / "nights/2024-02-29/index.html").read_text()
    best = max(found, key=lambda item: item["probability"])
    assert best["candid"] in page and "seen in 3 of 3 images that show the position" in page and "training set" in page
    assert (tmp_path / f"nights/2024-02-29/stamps/{best['candid']}.png").stat().st_size > 100
    index = (tmp_path / "nights/index.html").read_text()
    assert "2024-02-29" in index and "broken.fits" in index
    assert "http:" not in page + index and "https:" not in page + index  # no network
    (cube,) = (read_cube(path, both_classes=False) for path in (tmp_path / "nights/2024-02-29/cutouts").glob("im0.npz"))
    assert set(cube["candids"]) == {item["candid"] for item in found if item["image_name"] == "im0"}
    names = {image["name"] for image in ledger.images("2024-02-29")}
    assert {path.stem for path in (tmp_path / "nights/2024-02-29").glob("*.ecsv")} == names


def test_a_full_disk_loses_nothing(night_pair, tmp_path, monkeypatch):
    folder = images(tmp_path / "images", night_pair[0], 1)
    night = a_night(folder, tmp_path / "nights", night_pair)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("otrain_core.night.hand_on.write_search", full)
        with pytest.raises(OtrainError, match="no space left"):
            run(night)
    assert run(night)["done"] == 1
    assert len(Ledger(tmp_path / "nights/ledger.sqlite").images()) == 1


def test_frames_without_sky_are_told_of_once(night_pair, tmp_path):
    folder = images(tmp_path / "images", night_pair[0], 1)
    for k, kind in enumerate(("Dark Frame", "DARK", "flat", "Bias", "Light Frame")):
        header = fits.Header({"IMAGETYP": kind})
        fits.PrimaryHDU(np.full((100, 100), 300 + k, np.int16), header).writeto(folder / f"frame{k}.fits")
    night, said = a_night(folder, tmp_path / "nights", night_pair), []
    counts = night.run(once=True, stop=threading.Event(), tell=said.append)
    assert counts == {"done": 1, "refused": 1, "left_out": 4, "known": 0}  # the light frame is blank
    assert sum("left out" in text for text in said) == 1 and len(said) == 3
    index = (tmp_path / "nights/index.html").read_text()
    assert "Frames without sky, by the type in their header: 1 bias, 2 dark, 1 flat" in index
    assert re.search("frame0.fits<.*IMAGETYP .*Dark Frame", index)
    assert run(night) == {"done": 0, "refused": 0, "left_out": 0, "known": 6}


class Lean:
    """A night with one candidate per image and without a real search, which counts the pages that it writes."""

    def __init__(self, folder, night_pair, monkeypatch):
        self.pages, write = [], module.write_page
        self.night = a_night(folder / "images", folder / "nights", night_pair)
        (folder / "images").mkdir()
        self.page = folder / "nights/2024-02-29/index.html"
        monkeypatch.setattr(module, "search_image", self.search)
        monkeypatch.setattr(
            module, "write_page", lambda *args, **options: (self.pages.append(1), write(*args, **options))
        )

    def arrive(self, numbers):
        for k in numbers:
            (self.night.folder / f"im{k}.fits").write_bytes(b"%d" % k)

    @staticmethod
    def search(path, *, image, **_):
        return one_found(int(image[2:]))

    def shown(self):
        return len(re.findall(r">im[0-9]+</td>", self.page.read_text()))


def one_found(k):
    found = searched(k, [f"c{k}"], [10.0])
    found.record |= {"real": 1, "unlike_training": 0, "subtraction": {"noise_spread": 1.0}}
    found.record["time"] = "2024-03-01T02:00:00"
    found.described = {name: np.array([1.0]) for name in DESCRIPTORS}
    found.table["score"] = np.array([0.9])
    return found


def test_while_images_wait_the_page_is_written_seldom(night_pair, tmp_path, monkeypatch):
    lean = Lean(tmp_path, night_pair, monkeypatch)
    lean.arrive(range(60))
    assert run(lean.night)["done"] == 60
    # After each of the first 19 images, then after every second up to the 39th, every third up to the 57th, and at the end.
    assert len(lean.pages) == 19 + 10 + 6 + 1 and lean.shown() == 60


def test_a_killed_night_has_its_page_when_it_goes_on(night_pair, tmp_path, monkeypatch):
    lean = Lean(tmp_path, night_pair, monkeypatch)
    lean.arrive(range(21))

    def killed(path, *, image, **_):
        if image == "im20":
            raise KeyboardInterrupt
        return one_found(int(image[2:]))

    monkeypatch.setattr(module, "watch", lambda folder, **_: iter([folder / f"im{k}.fits" for k in range(21)]))
    monkeypatch.setattr(module, "search_image", killed)
    with pytest.raises(KeyboardInterrupt):
        run(lean.night)
    assert lean.shown() == 19
    monkeypatch.setattr(module, "watch", lambda folder, **_: iter(()))
    assert run(replace(lean.night))["done"] == 0 and lean.shown() == 20
    pages = len(lean.pages)
    run(replace(lean.night))  # nothing is new
    assert len(lean.pages) == pages


def test_a_damaged_ledger_is_named(night_pair, tmp_path, monkeypatch):
    lean = Lean(tmp_path, night_pair, monkeypatch)
    lean.arrive(range(1))
    run(lean.night)
    ledger = tmp_path / "nights/ledger.sqlite"
    content = ledger.read_bytes()
    ledger.write_bytes(content[:4096] + bytes(len(content) - 4096))  # the first page holds the names of the tables
    with pytest.raises(
        OtrainError, match=f"^{ledger}: cannot be read .*; if it is damaged, choose a new output folder"
    ):
        run(lean.night)


def test_an_unexpected_error_of_one_image_does_not_end_the_night(night_pair, tmp_path, monkeypatch):
    folder = images(tmp_path / "images", night_pair[0], 2)
    night, searched = a_night(folder, tmp_path / "nights", night_pair), module.search_image

    def breaks(path, **options):
        if Path(path).name == "im0.fits":
            raise ZeroDivisionError("by zero")
        return searched(path, **options)

    monkeypatch.setattr(module, "search_image", breaks)
    assert run(night) == {"done": 1, "refused": 1, "left_out": 0, "known": 0}
    (refused,) = [image for image in Ledger(tmp_path / "nights/ledger.sqlite").images() if image["status"] == "refused"]
    assert "unexpected ZeroDivisionError" in refused["reason"]


def test_a_file_that_cannot_be_read_does_not_end_the_night(night_pair, tmp_path, monkeypatch):
    folder = images(tmp_path / "images", night_pair[0], 2)
    told = []

    def denied(path):
        if path.name == "im0.fits":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return digest(path)

    monkeypatch.setattr(module, "digest", denied)
    night = a_night(folder, tmp_path / "nights", night_pair)
    counts = night.run(once=True, stop=threading.Event(), tell=told.append)
    assert (counts["done"], counts["refused"]) == (1, 1)
    assert told[0] == f"refused: {folder}/im0.fits: cannot be read (Permission denied)"


def test_a_file_name_that_is_no_utf8(night_pair, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(night_pair[0], os.fsencode(folder) + b"/a\xff.fits")
    with open(os.fsencode(folder) + b"/broken\xff.fits", "wb") as file:
        file.write(b"no FITS file at all")
    counts = run(a_night(folder, tmp_path / "nights", night_pair))
    assert (counts["done"], counts["refused"]) == (1, 1)
    images = {image["name"]: image for image in Ledger(tmp_path / "nights/ledger.sqlite").images()}
    assert images["a"]["path"] == images["a"]["record"]["science"] == f"{folder}/a\\xff.fits"
    assert images["broken"]["reason"].startswith(f"{folder}/broken\\xff.fits: ")


def test_nights_within_the_watched_folder(night_pair, tmp_path):
    folder = images(tmp_path / "images", night_pair[0], 1)
    night = a_night(folder, folder / "nights", night_pair)
    assert run(night) == {"done": 1, "refused": 0, "left_out": 0, "known": 0}
    assert run(night) == {"done": 0, "refused": 0, "left_out": 0, "known": 1}
    with pytest.raises(OtrainError, match="images: the nights cannot be written to the folder of the images"):
        run(a_night(folder, folder, night_pair))


def test_an_image_that_is_gone_when_its_turn_comes(night_pair, tmp_path, monkeypatch):
    folder = images(tmp_path / "images", night_pair[0], 2)
    night = a_night(folder, tmp_path / "nights", night_pair)
    found = sorted(folder.iterdir())
    monkeypatch.setattr(module, "watch", lambda *args, **options: iter([*found, folder / "gone.fits"]))
    found[0].unlink()
    assert run(night) == {"done": 1, "refused": 0, "left_out": 0, "known": 2}
    assert [image["status"] for image in Ledger(tmp_path / "nights/ledger.sqlite").images()] == ["done"]


def test_a_second_night_on_the_same_folder_is_refused(night_pair, tmp_path):
    night = a_night(images(tmp_path / "images", night_pair[0], 1), tmp_path / "nights", night_pair)
    with (
        module.alone(tmp_path / "nights"),
        pytest.raises(OtrainError, match="another otrain night works on this folder"),
    ):
        run(night)
    assert run(night)["done"] == 1


BAD = {
    "elsewhere": "no reference in .* shows its centre",
    "no_wcs": "no WCS, which is needed to find its reference",
    "other_filter": "FILTER: the image was taken in 'B' but the reference .* in 'r'",
    "saturated": "100 % of the pixels are saturated",
    "trailed": "the stars are trailed",
    "blank": "all pixels have the same value",
    "truncated": "truncated",
}


def spoil(name, data, header):
    """Data of an image with one fault; the header is changed in place."""
    if name == "elsewhere":
        header["CRVAL1"] += 20
    elif name == "no_wcs":
        for key in [key for key in header if key.startswith(("CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT", "CD", "PC"))]:
            del header[key]
    elif name == "other_filter":
        header["FILTER"] = "B"
    elif name == "saturated":
        return np.full_like(data, header["SATURATE"])
    elif name == "trailed":
        noise = np.random.default_rng(1).normal(0, 5, data.shape)
        return (uniform_filter1d(data, size=9, axis=1) + noise).astype(np.float32)
    elif name == "blank":
        return np.zeros_like(data)
    return data


@pytest.fixture(scope="module")
def bad_night(night_pair, tmp_path_factory):
    """A night with one good image and one with each fault: exit status, images by name, and the index page."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "references").mkdir()
    shutil.copy(night_pair[1], folder / "references/reference.fits")
    (folder / "incoming").mkdir()
    for name in ("good", *BAD):
        with fits.open(night_pair[0]) as hdus:
            header = hdus[0].header.copy()
            data = spoil(name, hdus[0].data.copy(), header)
        path = folder / f"incoming/{name}.fits"
        fits.PrimaryHDU(data, header).writeto(path)
        if name == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            os.utime(path, (time.time() - 3600,) * 2)
    arguments = ["night", str(folder / "incoming"), "--references", str(folder / "references"), "--once", "--quiet"]
    status = main([*arguments, "-m", str(night_pair[2]), "-o", str(folder / "nights")])
    images = {image["name"]: image for image in Ledger(folder / "nights/ledger.sqlite").images()}
    return status, images, (folder / "nights/index.html").read_text()


def test_bad_images_do_not_stop_the_good_one(bad_night):
    status, images, _ = bad_night
    assert status == 1 and images["good"]["status"] == "done"
    assert [name for name, image in images.items() if image["status"] == "done"] == ["good"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_refused_in_one_sentence(bad_night, name):
    _, images, index = bad_night
    reason = images[name]["reason"]
    assert re.search(BAD[name], reason) and f"{name}.fits" in reason and "\n" not in reason
    assert f"{name}.fits" in index


def test_the_verb(night_pair, tmp_path):
    folder = images(tmp_path / "images", night_pair[0], 1)
    (folder / "broken.fits").write_bytes(b"no FITS file at all")
    command = [sys.executable, "-m", "otrain_core.cli.main", "night", str(folder), "--references", str(night_pair[1])]
    command += ["-m", str(night_pair[2]), "-o", str(tmp_path / "nights"), "--once", "--json", "--quiet"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    record = json.loads(result.stdout)
    assert record["done"] == 1 and record["refused"] == 1


@pytest.mark.parametrize(
    ("moment", "night"),
    [("2024-03-01T02:00:00", "2024-02-29"), ("2024-03-01T13:00:00", "2024-03-01"), ("", "1970-01-01")],
)
def test_the_date_is_that_of_the_evening(tmp_path, moment, night):
    path = tmp_path / "x.fits"
    path.write_bytes(b"")
    os.utime(path, (50_000, 50_000))
    assert night_of({"time": moment}, path) == night


@pytest.mark.parametrize("east", [-155.5, 204.5, 149.1, 0.0, None])
def test_a_night_is_not_divided_at_local_midnight(tmp_path, east):
    """At Hawaii and Siding Spring, noon UTC is during the night."""
    first = datetime(2024, 3, 1, 18) - timedelta(hours=((east or 0.0) + 180) % 360 / 15 - 12)
    moments = [(first + timedelta(hours=k)).isoformat() for k in range(13)]  # from 18 h to 6 h local solar time
    nights = {night_of({"time": moment, "longitude": east}, tmp_path) for moment in moments}
    assert nights == {"2024-03-01"}
    assert {night_of({"time": moment}, tmp_path, longitude=east) for moment in moments} == nights


def test_the_header_tells_where_the_night_is(night_pair, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    with fits.open(night_pair[0]) as hdus:
        hdus[0].header.update({"DATE-OBS": "2024-03-01T12:30:00", "SITELONG": "-155 28 30"})
        hdus[0].writeto(folder / "a.fits")
    assert run(a_night(folder, tmp_path / "nights", night_pair))["done"] == 1
    assert (tmp_path / "nights/2024-02-29/a.ecsv").is_file()  # at 2:08 local time on 1 March
