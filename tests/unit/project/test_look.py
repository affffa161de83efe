"""Kinds, places and copies of the frames of a folder."""

import shutil

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ConfigError
from otrain_core.project.look import look_at
from tests.unit.project.frames import sky_cards, write_frame


def by_path(folder, **options):
    return {frame.path: frame for frame in look_at(folder, **options)}


@pytest.mark.parametrize(
    "name, cards, kind",
    [
        ("a.fit", {}, "science"),
        ("a.fit", {"IMAGETYP": "Dark Frame"}, "dark"),
        ("a.fit", {"IMAGETYP": "SKYFLAT"}, "flat"),
        ("a.fit", {"IMAGETYP": None, "OBSTYPE": "zero"}, "bias"),
        ("darks/a.fit", {"IMAGETYP": None}, "dark"),
        ("dark_nebula.fit", {}, "science"),
        ("AutoFocus_1.fit", {"IMAGETYP": None}, "other"),
        ("FinalDifference.fit", {}, "other"),
        ("a.fit", {"NCOMBINE": 12}, "stack"),
        ("M1_reference.fit", {}, "stack"),
        ("night/difference/a.fit", {}, "science"),
    ],
)
def test_the_kind_comes_from_header_or_name(tmp_path, name, cards, kind):
    write_frame(tmp_path / name, **cards)
    assert by_path(tmp_path)[name].kind == kind


def test_small_images_and_broken_files_are_distinguished(tmp_path):
    write_frame(tmp_path / "small.fit", shape=(40, 40))
    whole = write_frame(tmp_path / "a.fit").read_bytes()
    (tmp_path / "text.fits").write_text("no FITS file")
    (tmp_path / "cut.fit").write_bytes(whole[:1000])
    found = by_path(tmp_path)
    assert found["small.fit"].kind == "other" and "smaller than a frame" in found["small.fit"].why
    assert found["text.fits"].kind == found["cut.fit"].kind == "unreadable"
    assert "not a readable FITS" in found["text.fits"].why


def test_colour_planes_and_damaged_headers_affect_one_file_only(tmp_path, monkeypatch):
    fits.PrimaryHDU(np.ones((3, 80, 80), np.float32)).writeto(tmp_path / "rgb.fit")
    write_frame(tmp_path / "a.fit")
    assert by_path(tmp_path)["rgb.fit"].why == "3 image planes (colours?): separate them first"
    monkeypatch.setattr("otrain_core.project.look.header_scale", lambda header: 1 / 0)
    assert by_path(tmp_path)["a.fit"].why == "its header cannot be used (ZeroDivisionError: division by zero)"


def test_values_of_a_header(tmp_path):
    write_frame(tmp_path / "a.fit", OBJCTRA="10 00 24", OBJCTDEC="-22 30 00", RDNOISE=7.5)
    frame = by_path(tmp_path)["a.fit"]
    assert frame.scale == pytest.approx(206.26480625 * 9 / 1500) and frame.scale_from == "XPIXSZ and FOCALLEN"
    assert (frame.ra, frame.dec) == (pytest.approx(150.1), pytest.approx(-22.5))
    assert frame.numbers == {"gain": ("EGAIN", 2.0), "read_noise": ("RDNOISE", 7.5)}
    assert frame.time == "2026-01-01T20:00:00.000" and frame.exposure == 60 and frame.shape == (160, 200)
    assert frame.wcs == ""


def test_a_wcs_in_the_header_or_beside_the_frame(tmp_path):
    write_frame(tmp_path / "a.fit", **sky_cards(10.0, 20.0))
    write_frame(tmp_path / "b.fit")
    fits.Header(sky_cards(30.0, 40.0, scale=2.0).items()).tofile(tmp_path / "b.wcs", endcard=True, padding=False)
    found = by_path(tmp_path)
    assert found["a.fit"].wcs == "header" and found["b.fit"].wcs == "b.wcs"
    assert found["a.fit"].ra == pytest.approx(10, abs=1e-3) and found["a.fit"].scale == pytest.approx(1.2, rel=1e-3)
    assert found["b.fit"].dec == pytest.approx(40, abs=1e-3) and found["b.fit"].scale == pytest.approx(2.0, rel=1e-3)


def test_solutions_are_found_by_path_or_by_a_name_that_is_unique(tmp_path):
    for name in ("a/1.fit", "b/1.fit", "b/2.fit"):
        write_frame(tmp_path / "data" / name, seed=ord(name[0]))
    for name, ra in (("p/wcs/a/1.wcs", 10.0), ("data/wcs/2.wcs", 30.0)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        fits.Header(sky_cards(ra, 40.0).items()).tofile(tmp_path / name, endcard=True, padding=False)
    found = by_path(tmp_path / "data", project=tmp_path / "p")
    assert {path: frame.wcs for path, frame in found.items()} == {
        "a/1.fit": "../p/wcs/a/1.wcs",
        "b/1.fit": "",
        "b/2.fit": "wcs/2.wcs",
    }


def test_only_one_file_of_an_exposure_is_used(tmp_path):
    first = write_frame(tmp_path / "a.fit")
    shutil.copy(first, tmp_path / "z.fit")
    write_frame(tmp_path / "b.fit", seed=1, time="2026-01-01T20:05:00")
    write_frame(tmp_path / "reduced/b_cal.fit", seed=2, time="2026-01-01T20:05:00", CALSTAT="BDF")
    write_frame(tmp_path / "other.fit", seed=3, time="2026-01-01T20:05:00")
    found = by_path(tmp_path)
    assert found["z.fit"].why == "a copy of a.fit"
    assert found["b.fit"].why == "the same exposure as reduced/b_cal.fit"
    assert {path for path, frame in found.items() if frame.kind == "science"} == {
        "a.fit",
        "reduced/b_cal.fit",
        "other.fit",
    }


def test_a_file_with_several_images_is_marked(tmp_path):
    hdus = [fits.PrimaryHDU()] + [fits.ImageHDU(np.ones((80, 80), np.float32), name=f"CCD{k}") for k in (1, 2)]
    fits.HDUList(hdus).writeto(tmp_path / "m.fits")
    assert list(by_path(tmp_path)) == ["m.fits[*]"]


def test_a_project_inside_the_folder_is_skipped(tmp_path):
    write_frame(tmp_path / "a.fit")
    write_frame(tmp_path / "project/results/b.fit")
    progress = []
    found = by_path(tmp_path, project=tmp_path / "project", tell=lambda *counts: progress.append(counts))
    assert list(found) == ["a.fit"] and progress == [(1, 1)]


def test_no_folder_and_no_frame_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        look_at(tmp_path / "none")
    with pytest.raises(ConfigError, match="no FITS file"):
        look_at(tmp_path)
    (tmp_path / "a.txt").write_text("a file")
    with pytest.raises(ConfigError, match=r"a\.txt: is a file, not a folder"):
        look_at(tmp_path / "a.txt")
