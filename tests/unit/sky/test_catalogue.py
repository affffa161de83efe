import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ConfigError, ImageError
from otrain_core.plan.telescopes import Detector
from otrain_core.sky import catalogue
from otrain_core.sky.fields import COLUMNS, KNOWN_COLUMNS, read_sky_table
from tests.unit.loopback import recorded


def write(path, text):
    path.write_text(text)
    return str(path)


def test_a_local_catalogue_is_cropped_to_the_field(tmp_path, field):
    path = write(
        tmp_path / "stars.csv", "# made by hand\nra, dec, mag, note\n83.6,22.0,15.5,a\n83.61,22.01,12.5,b\n90,22,11,c\n"
    )
    table = catalogue.star_catalogue(path, field, cache=tmp_path)
    assert list(table.columns) == COLUMNS
    assert list(table.mag) == [12.5, 15.5]
    assert table.color.isna().all() and (table.kind == "").all()


def test_a_catalogue_of_another_field_is_refused_and_a_missing_file_is_named(tmp_path, field):
    path = write(tmp_path / "stars.csv", "ra,dec\n10,10\n")
    with pytest.raises(ImageError, match="has no entry in the field of .* 83.6000"):
        catalogue.star_catalogue(path, field, cache=tmp_path)
    with pytest.raises(ConfigError, match="catalogue: .*none.csv: no such file"):
        catalogue.star_catalogue(str(tmp_path / "none.csv"), field, cache=tmp_path)


def test_known_objects_from_files(tmp_path, field):
    path = write(tmp_path / "known.csv", "name,ra,dec,kind\nA,83.6,22.0,\n7,83.61,22.0,moving\nfar,90,22,\n")
    table = catalogue.known_objects(f"{path}+{path}", field, cache=tmp_path)
    assert list(table.columns) == KNOWN_COLUMNS
    assert list(table.name) == ["A", "7", "A", "7"]
    assert list(table.kind) == ["variable", "moving"] * 2


def test_known_objects_come_from_both_services_and_a_file(server, tmp_path, field):
    server.answers = [recorded("vizier_vsx.vot"), recorded("skybot.vot")]
    path = write(tmp_path / "mine.csv", "ra,dec\n83.6,22.0\n")
    table = catalogue.known_objects(f"vsx+skybot:I33+{path}", field, cache=tmp_path)
    assert list(table.kind) == ["variable", "variable", "moving", "moving", "variable"]
    assert list(table.name[:3]) == ["V0725 Tau", "Gaia DR3 3403818172572314624", "Elyna"]
    assert table.ra[2] == pytest.approx(83.606, abs=1e-5) and table.dec[2] == pytest.approx(22.003, abs=1e-5)
    assert "-loc=I33" in server.requests[1][1] and "-ep=2460432.9247" in server.requests[1][1]


def test_a_survey_without_entries_in_the_field_is_refused(server, tmp_path, field):
    server.answers = [recorded("vizier_empty.vot")]
    with pytest.raises(ImageError, match="image one: catalogue: panstarrs has no entry in the field"):
        catalogue.star_catalogue("panstarrs", field, cache=tmp_path)


DETECTOR = Detector()


def run(tmp_path, science, *, source=None, known_source=None, detector=DETECTOR):
    names = {"catalogue": tmp_path / "out.csv", "known": tmp_path / "known_out.csv"}
    catalogue.catalogue_files(
        science=science,
        **names,
        image="one",
        detector=detector,
        wcs=None,
        source=source,
        known_source=known_source,
        cache=tmp_path / "cache",
    )
    return [read_sky_table(path) for path in names.values()]


def test_catalogue_files_from_services(server, tmp_path, image):
    server.answers = [recorded("vizier_gaia.vot"), recorded("vizier_vsx.vot")]
    stars, known = run(tmp_path, image, source="gaia", known_source="vsx")
    assert len(stars) == 9 and len(known) == 2
    stars, known = run(tmp_path, image)
    assert len(stars) == len(known) == 0
    assert stars.ra.dtype == known.ra.dtype == float
    assert len(server.requests) == 2


def test_a_wcs_is_needed_only_with_a_source(tmp_path):
    fits.PrimaryHDU(np.ones((100, 100), np.float32)).writeto(tmp_path / "one.fits")
    stars, _ = run(tmp_path, tmp_path / "one.fits")
    assert len(stars) == 0
    with pytest.raises(ImageError, match="image one: WCS"):
        run(tmp_path, tmp_path / "one.fits", source="gaia")


def test_the_field_is_that_of_the_extension_with_the_image(tmp_path, header):
    path = write(tmp_path / "stars.csv", "ra,dec,mag\n83.6,22.0,15\n")
    preview = fits.ImageHDU(np.ones((40, 40), np.float32), name="FAR")
    preview.header.update(
        {key: value for key, value in header().items() if key[:5] in ("CTYPE", "CRPIX", "CD1_1", "CD2_2")}
    )
    preview.header.update({"CRVAL1": 200.0, "CRVAL2": -40.0})
    image = fits.ImageHDU(np.ones((100, 100), np.float32), header=header(), name="NEAR")
    fits.HDUList([fits.PrimaryHDU(), preview, image]).writeto(tmp_path / "two.fits")
    stars, _ = run(tmp_path, tmp_path / "two.fits", source=path, detector=Detector(extension="NEAR"))
    assert len(stars) == 1
    with pytest.raises(ImageError, match="has no entry in the field of .* ra 200"):
        run(tmp_path, tmp_path / "two.fits", source=path, detector=Detector(extension="FAR"))
