import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ConfigError, ImageError
from otrain_core.images.frames import read_image
from otrain_core.plan.mosaics import expand_mosaics
from otrain_core.plan.sheets import ImageRow


def row(image, path, **values):
    return ImageRow(telescope="t", image=image, path=path, **({"reference": "ref.fits"} | values))


@pytest.fixture
def root(tmp_path):
    data = np.ones((40, 50), np.float32)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, name="CCD 1"), fits.ImageHDU(data, name="BPM")]
    fits.HDUList([*hdus, fits.ImageHDU(data, name="CCD2")]).writeto(tmp_path / "night.fits")
    return tmp_path


def test_a_mosaic_becomes_an_image_for_each_ccd(root):
    sheet = {"t": {"a": row("a", "night.fits[*]", reference="ref.fits[*]"), "b": row("b", "night.fits[CCD2]")}}
    found = expand_mosaics(sheet, root)["t"]
    assert {name: (one.image, one.path, one.reference) for name, one in found.items()} == {
        "a-CCD2": ("a-CCD2", "night.fits[CCD2]", "ref.fits[CCD2]"),
        "a-CCD_1": ("a-CCD_1", "night.fits[CCD 1]", "ref.fits[CCD 1]"),
        "b": ("b", "night.fits[CCD2]", "ref.fits"),
    }


@pytest.mark.parametrize(("reference", "fields"), [("night.fits[*]", ["n-CCD2", "n-CCD_1"]), ("deep.fits", ["n", "n"])])
def test_a_stack_of_mosaics_is_one_for_each_ccd(root, reference, fields):
    sheet = {"t": {"a": row("a", "night.fits[*]", field="n", reference=None)}}
    sheet["t"]["r"] = row("r", reference, role="reference", field="n", reference=None)
    found = expand_mosaics(sheet, root)["t"]
    assert [found[name].field for name in ("a-CCD2", "a-CCD_1")] == fields


def test_a_file_without_an_image_keeps_its_row_for_its_job_to_refuse(root):
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([])]).writeto(root / "table.fits")
    sheet = {"t": {"a": row("a", "none.fits[*]"), "b": row("b", "table.fits[*]")}}
    assert expand_mosaics(sheet, root) == sheet
    with pytest.raises(ImageError, match="image b: .*table.fits"):
        read_image(f"{root}/table.fits[*]", name="b")


def test_names_that_would_stand_twice(root):
    sheet = {"t": {"a": row("a", "night.fits[*]"), "a-CCD2": row("a-CCD2", "night.fits[CCD2]")}}
    with pytest.raises(ConfigError, match="named 'a-CCD2', but the sheet has this image already"):
        expand_mosaics(sheet, root)
