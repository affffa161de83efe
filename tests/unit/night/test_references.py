"""Reference of an image: one for all, by file name, or by sky position."""

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ConfigError, ImageError
from otrain_core.night.references import References
from tests.unit.synthetic_difference import tangential


def frame(path, *, shift=0.0, shape=(60, 80)):
    wcs = tangential(2.0)
    wcs.wcs.crval = [wcs.wcs.crval[0] + shift, wcs.wcs.crval[1]]
    fits.PrimaryHDU(np.zeros(shape, np.float32), wcs.to_header()).writeto(path)
    return path


def test_one_for_all(tmp_path):
    reference = frame(tmp_path / "reference.fits")
    assert References(reference).of(tmp_path / "any.fits", image="any") == reference


def test_by_the_sky(tmp_path):
    folder = tmp_path / "references"
    folder.mkdir()
    near, far = frame(folder / "near.fits", shift=0.005), frame(folder / "far.fits", shift=3.0)
    references = References(folder)
    assert references.of(frame(tmp_path / "a.fits"), image="a") == near
    assert references.of(frame(tmp_path / "b.fits", shift=3.0), image="b") == far
    with pytest.raises(ImageError, match="no reference in .* shows its centre"):
        references.of(frame(tmp_path / "c.fits", shift=90.0), image="c")
    fits.PrimaryHDU(np.zeros((60, 80), np.float32)).writeto(tmp_path / "d.fits")
    with pytest.raises(ImageError, match="no WCS"):
        references.of(tmp_path / "d.fits", image="d")


def test_by_name(tmp_path):
    (tmp_path / "map.csv").write_text("pattern,reference\n*M31*,m31.fits\n")
    frame(tmp_path / "m31.fits")
    references = References(tmp_path / "map.csv")
    assert references.of("night/x_M31_r.fits", image="x") == tmp_path / "m31.fits"
    with pytest.raises(ImageError, match="no pattern"):
        references.of("night/x_M33_r.fits", image="x")


@pytest.mark.parametrize("name", ["none.fits", "truncated.fits"])
def test_each_reference_of_a_list_is_checked_before_an_image_is_refused_for_it(tmp_path, name):
    (tmp_path / "truncated.fits").write_bytes(frame(tmp_path / "whole.fits").read_bytes()[:5000])
    (tmp_path / "list.csv").write_text(f"pattern,reference\na*,whole.fits\n*,{name}\n")
    reason = "no such file" if name == "none.fits" else "not a readable FITS image, or truncated"
    with pytest.raises(ConfigError, match=f"^--references: {tmp_path / name}: {reason}"):
        References(tmp_path / "list.csv")


@pytest.mark.parametrize("name", ["none.fits", "empty", "list.csv", "truncated.fits"])
def test_refusals(tmp_path, name):
    whole = frame(tmp_path / "whole.fits").read_bytes()
    (tmp_path / "truncated.fits").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=f"^--references: {tmp_path / name}: "):
        References(tmp_path / name)
    with pytest.raises(ConfigError, match=f"^archive.references: {tmp_path / name}: "):
        References(tmp_path / name, option="archive.references")


def test_a_truncated_reference_in_a_folder_is_named_with_the_option(tmp_path):
    (tmp_path / "bad.fits").write_bytes(frame(tmp_path / "whole.fits").read_bytes()[:5000])
    with pytest.raises(ConfigError, match=f"^--references: {tmp_path}/bad.fits: not a readable FITS image"):
        References(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [("", "has no rows"), ("*,a.fits\n,b.fits\n", "line 3: the columns pattern and reference are both needed")],
)
def test_lists_that_are_refused(tmp_path, rows, message):
    (tmp_path / "list.csv").write_text(f"pattern,reference\n{rows}")
    with pytest.raises(ConfigError, match=f"^--references: {tmp_path}/list.csv: {message}"):
        References(tmp_path / "list.csv")
