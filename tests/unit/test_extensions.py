from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.extensions import file_of, image_extensions, is_companion, split_extension


@pytest.mark.parametrize(
    ("path", "file", "extension"),
    [
        ("night/a.fits[SCI]", "night/a.fits", "SCI"),
        ("night/a.fits.fz[SCI,2]", "night/a.fits.fz", "SCI,2"),
        ("a.fits[2]", "a.fits", "2"),
        ("a.fits[*]", "a.fits", "*"),
        ("a.fits", "a.fits", None),
        ("night[1]/a.fits", "night[1]/a.fits", None),
        ("a.fits[]", "a.fits[]", None),
    ],
)
def test_a_path_may_name_an_extension(path, file, extension):
    assert split_extension(path) == (Path(file), extension)
    assert file_of(path) == Path(file)


def test_a_file_with_brackets_in_its_name_is_itself(tmp_path):
    path = tmp_path / "a[1]"
    path.write_text("")
    assert split_extension(path) == (path, None)


def test_images_of_a_file_without_masks_and_previews(tmp_path):
    data, path = np.ones((40, 50), np.float32), tmp_path / "a.fits"
    hdus = [fits.PrimaryHDU()]
    for name, array in (("PREVIEW", data), ("CCD1", data), ("BPM", data), ("", data), ("small", data[::8, ::8])):
        hdus.append(fits.ImageHDU(array, name=name))
    fits.HDUList(hdus).writeto(path)
    assert image_extensions(path, image="a") == ["CCD1", "4"]
    with pytest.raises(ImageError, match="image a: path: .*no such file"):
        image_extensions(tmp_path / "none.fits", image="a")
    path.write_text("no FITS")
    with pytest.raises(ImageError, match="image a: path: .*not a readable FITS file"):
        image_extensions(path, image="a")


def test_names_of_companions():
    assert all(map(is_companion, ("MASK", "bpm,2", "Err", "WHT_1", "THUMBNAIL")))
    assert not any(map(is_companion, ("SCI", "CCD1", "MASKED", "0", "EXPOSED")))
