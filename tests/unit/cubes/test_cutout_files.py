"""FITS cutouts of the original O'TRAIN, gmadet and STDPipe; back to files; what is refused."""

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.cubes.cube import cube_from_folders
from otrain_core.cubes.cube_folders import class_folders
from otrain_core.cubes.cutout_files import find_cutouts, name_images, read_blocks, read_cutout, write_cutouts
from otrain_core.errors import CubeError
from otrain_core.plan.config import CubeOptions
from tests.unit.synthetic_cube import make_cube

FEW = CubeOptions(min_per_class=1)
GMADET = {"CANDID": "im7_12", "EDGE": "False", "MAG": -99.0, "MAGERR": 99.0, "FILTER": "R", "FWHM": 3.1, "RA": 10.0}
GMADET |= {"DEC": -99.0, "FILE": "/data/night/im7.fits", "XPOS": 3.0, "FWHMPSF": 2.7}


def _single(path, header, shape=(33, 33), value=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(np.full(shape, value, np.float32), fits.Header(header)).writeto(path, overwrite=True)
    return path


def _stdpipe(path, *, name="c1", size=63, **header):
    """As STDPipe's ``write_cutout`` does: an empty primary, one extension for each plane."""
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = {"IMAGE": 1.0, "TEMPLATE": 2.0, "DIFF": 3.0, "MASK": 0}
    hdus = [fits.PrimaryHDU(header=fits.Header({"NAME": name, "mag_calib": 18.2, "FWHM": 2.0} | header))]
    hdus += [fits.ImageHDU(np.full((size, size), value, np.float32), name=key) for key, value in planes.items()]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def test_a_cutout_of_gmadet(tmp_path):
    planes, row = read_cutout(_single(tmp_path / "a.fits", GMADET), size=32)
    assert list(planes) == ["difference"] and planes["difference"].shape == (32, 32)
    assert (row["candid"], row["image"], row["edge"], row["filter"]) == ("im7_12", "im7.fits", False, "R")
    assert np.isnan(row["mag"]) and np.isnan(row["magerr"])
    assert (row["seeing"], row["fwhm"]) == (2.7, 3.1)
    assert np.isnan(row["ra"]) and np.isnan(row["dec"])  # DEC is -99, a missing value


@pytest.mark.parametrize(
    ("ra", "dec", "position"),
    [
        (10.0, -45.0, (10.0, -45.0)),
        (99.0, 22.0, (99.0, 22.0)),  # a legal right ascension
        (-99.0, -99.0, (np.nan, np.nan)),
        (10.0, 91.0, (np.nan, np.nan)),
        (-999.0, 10.0, (np.nan, np.nan)),
    ],
)
def test_a_position_outside_the_ranges_of_ra_and_dec_is_missing(tmp_path, ra, dec, position):
    _, row = read_cutout(_single(tmp_path / "a.fits", GMADET | {"RA": ra, "DEC": dec}))
    np.testing.assert_array_equal((row["ra"], row["dec"]), position)


def test_a_cutout_of_stdpipe(tmp_path):
    planes, row = read_cutout(_stdpipe(tmp_path / "a.fits"))
    assert {name: plane[0, 0] for name, plane in planes.items()} == {
        **{"difference": 3.0, "science": 1.0},
        **{"reference": 2.0, "mask": 0.0},
    }
    assert (row["candid"], row["mag"], row["edge"]) == ("c1", 18.2, False)


def test_cropping_keeps_the_candidate_in_its_pixel(tmp_path):
    for side, size in ((33, 32), (64, 32), (63, 21)):
        data = np.zeros((side, side), np.float32)
        data[side // 2, side // 2] = 1
        fits.PrimaryHDU(data, fits.Header(GMADET)).writeto(tmp_path / "a.fits", overwrite=True)
        plane = read_cutout(tmp_path / "a.fits", size=size)[0]["difference"]
        assert plane[size // 2, size // 2] == 1


def test_a_cube_of_multi_extension_folders(tmp_path):
    for k in range(6):
        _stdpipe(tmp_path / ("true" if k % 2 else "false") / f"{k}.fits", name=f"im_{k}")
    arrays, _ = cube_from_folders(*class_folders(tmp_path), seed=1, options=FEW, channels=None, size=32)
    assert arrays["channels"].tolist() == ["difference", "science", "reference", "mask"]
    assert arrays["cube"].shape == (6, 32, 32, 4) and arrays["labels"].sum() == 3
    arrays, _ = cube_from_folders(*class_folders(tmp_path), seed=1, options=FEW)
    assert arrays["channels"].tolist() == ["difference"] and (arrays["cube"] == 3).all()


@pytest.mark.parametrize("channels", [["science"], ["science", "reference"]])
def test_a_cube_without_difference_is_not_written(tmp_path, channels):
    cube = make_cube(4) | {"channels": np.array(channels), "cube": np.ones((4, 9, 9, len(channels)), np.float32)}
    with pytest.raises(CubeError, match="channels: FITS cutouts need the channel difference; the cube has science"):
        write_cutouts(cube, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_written_cutouts_give_the_same_cube_again(tmp_path):
    cube = make_cube(40)
    assert write_cutouts(cube, tmp_path) == {"True": 20, "False": 20}
    arrays, _ = cube_from_folders(*class_folders(tmp_path), seed=1, options=FEW, channels=None)
    order, back = np.argsort(cube["candids"]), np.argsort(arrays["candids"])
    assert np.array_equal(arrays["cube"][back], cube["cube"][order], equal_nan=True)
    for key in ("labels", "mags", "seeing", "images", "candids"):
        assert np.array_equal(arrays[key][back], cube[key][order], equal_nan=key in ("mags", "seeing")), key


def test_names_of_files_stay_in_the_folder(tmp_path):
    cube = make_cube(6)
    cube["candids"] = np.array(["../../out", "/tmp/out", "..", "a/b", "a b", "a\nb"])
    write_cutouts(cube, tmp_path / "deep" / "folder")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {path.parent.parent for path in files} == {tmp_path / "deep" / "folder"}


def test_blocks(tmp_path):
    for k in range(5):
        _stdpipe(tmp_path / f"{k}.fits")
    _single(tmp_path / "5.fits", {"FWHMPSF": 2.0}, shape=(63, 63))
    blocks = list(read_blocks(find_cutouts(tmp_path), size=32, block=3))
    assert [len(rows) for _, rows in blocks] == [3, 3]
    assert set(blocks[0][0]) == {"difference", "science", "reference", "mask", "seeing", "pixel_scale"}
    assert set(blocks[1][0]) == {"difference", "seeing", "pixel_scale"}
    assert blocks[1][1][2]["candid"] == "5"


def test_cutouts_truncated_by_the_edge_are_left_out(tmp_path):
    """gmadet writes smaller cutouts at the edge and marks them."""
    for k in range(6):
        edge = {"EDGE": "True"} if k == 3 else {}
        shape = (20, 33) if edge else (33, 33)
        _single(tmp_path / ("true" if k % 2 else "false") / f"{k}.fits", GMADET | {"CANDID": k} | edge, shape=shape)
    blocks = list(read_blocks(find_cutouts(tmp_path / "true"), size=32, block=2))
    assert [row["candid"] for _, rows in blocks for row in rows] == ["1", "5"]
    assert blocks[0][1][0]["file"] == str(tmp_path / "true" / "1.fits")
    arrays, record = cube_from_folders(
        *class_folders(tmp_path), seed=1, options=CubeOptions(true_fraction=None, min_per_class=1)
    )
    assert (len(arrays["labels"]), record["n_edge"], record["n_candidates"]) == (5, 1, 6)
    with pytest.raises(CubeError, match="EDGE: truncated by the edge of the image, 33 x 20 px"):
        read_cutout(tmp_path / "true" / "3.fits")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: _single(path, {"CANDID": "a"}), "EDGE: this header key is mandatory"),
        (lambda path: _single(path, GMADET | {"MAG": "bright"}), "MAG: a number is needed"),
        (lambda path: _single(path, GMADET | {"EDGE": "perhaps"}), "EDGE: True or False"),
        (lambda path: _single(path, GMADET, shape=(30, 32)), "the cutout must be square, found 32 x 30 px"),
        (lambda path: _single(path, GMADET, shape=(2, 3, 32, 32)), "two-dimensional image"),
        (lambda path: _single(path, GMADET, shape=(3000, 3000)), "at most 2048 px"),
        (lambda path: path.write_text("SIMPLE  ="), "not a readable FITS image"),
    ],
)
def test_bad_cutouts_are_refused(tmp_path, make, message):
    make(tmp_path / "a.fits")
    with pytest.raises(CubeError, match=message):
        read_cutout(tmp_path / "a.fits")


def _damage(path, old, new):
    _single(path, GMADET)
    raw = path.read_bytes()
    assert raw.count(old) == 1 and len(old) == len(new)
    path.write_bytes(raw.replace(old, new))


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_below_one_is_refused(tmp_path, size):
    with pytest.raises(CubeError, match=f"size: a side of at least 1 px is needed, found {size}"):
        read_cutout(_single(tmp_path / "a.fits", GMADET), size=size)


def test_a_card_that_is_not_legal_is_named(tmp_path):
    _damage(tmp_path / "a.fits", b"MAG     =                -99.0", b"MAG     =              1 2.5x4")
    with pytest.raises(CubeError, match="a.fits: MAG: this header card is not legal FITS"):
        read_cutout(tmp_path / "a.fits")
    _damage(tmp_path / "b.fits", b"XPOS    =                  3.0", b"XPOS    =              1 2.5x4")
    assert read_cutout(tmp_path / "b.fits")[1]["candid"] == "im7_12"  # a card that nobody reads


def test_any_error_of_a_damaged_file_becomes_one_sentence(tmp_path, monkeypatch):
    class CfitsioError(Exception):
        pass

    def broken(*args, **options):
        raise CfitsioError("error status 414")

    _single(tmp_path / "a.fits", GMADET)
    monkeypatch.setattr("astropy.io.fits.open", broken)
    with pytest.raises(CubeError, match="a.fits: not a readable FITS image, or truncated .error status 414."):
        read_cutout(tmp_path / "a.fits")


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(CubeError, match="no such folder"):
        find_cutouts(tmp_path / "nowhere")
    with pytest.raises(CubeError, match="no FITS cutouts"):
        find_cutouts(tmp_path)
    with pytest.raises(CubeError, match="True/"):
        class_folders(tmp_path)
    _single(tmp_path / "a.fits", GMADET)
    with pytest.raises(CubeError, match="cutouts of 40 px are needed"):
        read_cutout(tmp_path / "a.fits", size=40)
    _single(tmp_path / "b.fits", GMADET, shape=(21, 21))
    with pytest.raises(CubeError, match="different sizes"):
        list(read_blocks(find_cutouts(tmp_path)))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/data/a.fits", "/data/b.fits", "/data/a.fits"], ["a.fits", "b.fits", "a.fits"]),
        (["/d/n1/science.fits", "/d/n2/science.fits"], ["n1/science.fits", "n2/science.fits"]),
        (["/n1/r/s.fits", "/n2/r/s.fits", "/n2/g/t.fits"], ["n1/r/s.fits", "n2/r/s.fits", "t.fits"]),
        (["s.fits", "/n1/s.fits", "C:\\n2\\s.fits"], ["s.fits", "n1/s.fits", "n2/s.fits"]),
        (["/n1//s.fits", "/n1/s.fits"], ["s.fits", "s.fits"]),
        (["", "/"], ["", "/"]),
    ],
)
def test_images_of_the_same_name_are_named_with_their_folders(paths, names):
    assert name_images(paths) == names
