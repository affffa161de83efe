"""Files from strangers: each refusal is told in a sentence, before memory is taken."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import zipfile

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from otrain_core import safe
from otrain_core.arrays import read_arrays, read_stack
from otrain_core.classify import candidate_lists, new_candidates
from otrain_core.cubes import cutout_files
from otrain_core.cubes.cube_format import read_cube
from otrain_core.errors import ConfigError, CubeError, ImageError, OtrainError
from otrain_core.images.hdus import read_fits


def _member(shape, data=b"", dtype="<f4"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": dtype})
    return buffer.getvalue() + data


def _archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


class _Evil:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("read", [read_arrays, read_stack, read_cube])
def test_archives_are_refused(tmp_path, read, monkeypatch):
    path = tmp_path / "cube.npz"
    np.savez(path, cube=np.array([_Evil()], dtype=object))
    with pytest.raises(CubeError, match="Python objects, which could run code"):
        read(path)
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(CubeError, match="not a readable .npz"):
        read(path)
    with pytest.raises(CubeError, match=r"header promises .* GiB that are not there"):
        read(_archive(path, {"cube.npy": _member((10**6, 10**6), b"12345678")}))
    with pytest.raises(CubeError, match="negative length"):
        read(_archive(path, {"cube.npy": _member((-1, 4))}))
    with pytest.raises(CubeError, match="'run.py' is not an array"):
        read(_archive(path, {"run.py": b"print(1)"}))
    monkeypatch.setattr(safe, "SMALL", 2**20)
    bomb = _archive(path, {"cube.npy": _member((2**21,), bytes(2**23))}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CubeError, match="decompression bomb"):
        read(bomb)


def test_an_honest_archive_passes(tmp_path):
    path = tmp_path / "cube.npz"
    arrays = {
        "a": np.zeros((50, 32, 32), np.float32),
        "b": np.array(["x", "y"]),
        "c": np.array(3),
        "d": np.empty((0, 4)),
    }
    np.savez_compressed(path, **arrays)
    assert {key: value.shape for key, value in read_arrays(path).items()} == {k: v.shape for k, v in arrays.items()}


def _fits(path, **cards):
    fits.PrimaryHDU(np.zeros((4, 4), np.float32)).writeto(path, overwrite=True)
    data = bytearray(path.read_bytes())
    for key, value in cards.items():
        place = data.index(f"{key:8s}=".encode())
        data[place : place + 80] = f"{key:8s}= {value:>20}".ljust(80).encode()
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"NAXIS1": "2000000", "NAXIS2": "2000000"}, "header promises .* GiB"),
        ({"NAXIS1": "-4"}, "NAXIS"),
        ({"BITPIX": "-31"}, "BITPIX|not a readable"),
        ({"NAXIS": "900"}, "axes is refused|not a readable"),
    ],
)
def test_hostile_headers_are_refused(tmp_path, cards, message):
    with pytest.raises(ImageError, match=message):
        read_fits(_fits(tmp_path / "image.fits", **cards), image="a")


@pytest.mark.parametrize("fold", [gzip.compress, bz2.compress, lzma.compress])
def test_bombs_are_refused_by_every_reader_of_files_from_elsewhere(tmp_path, monkeypatch, fold):
    """astropy unfolds by the first bytes, whatever the name."""
    monkeypatch.setattr(safe, "SMALL", 2**20)
    monkeypatch.setattr(cutout_files, "MAX_BYTES", 2**20)
    readers = {
        "image.fits": lambda path: read_fits(path, image="a"),
        "cutout.fits": lambda path: cutout_files.read_cutout(path),
        "list.fits": candidate_lists.read_candidates,
        "list.csv": candidate_lists.read_candidates,
        "psf.fits": new_candidates.choose_psf,
    }
    for name, read in readers.items():
        path = tmp_path / name
        path.write_bytes(fold(bytes(2**22)))
        with pytest.raises(OtrainError, match="decompression bomb"):
            read(path)


def test_an_honest_compressed_image_passes_and_an_archive_does_not(tmp_path):
    path = _fits(tmp_path / "image.fits")
    data = path.read_bytes()
    for fold in (gzip.compress, bz2.compress, lzma.compress):
        path.write_bytes(fold(data))
        assert read_fits(path, image="a")[0].shape == (4, 4)
    _archive(path, {"image.fits": data})
    with pytest.raises(ImageError, match="a zip file is not read"):
        read_fits(path, image="a")


def test_hostile_tables_of_candidates(tmp_path):
    path = tmp_path / "list.fits"
    Table({"x": [1.0], "y": [2.0]}).write(path)
    data = path.read_bytes()
    place = data.index(b"NAXIS2  =")
    path.write_bytes(data[:place] + f"NAXIS2  = {10**12:>20}".ljust(80).encode() + data[place + 80 :])
    with pytest.raises(ConfigError, match="header promises"):
        candidate_lists.read_candidates(path)
    path = tmp_path / "list.ecsv"
    Table({"x": [1.0], "y": [2.0]}).write(path)
    for tag in ("!!python/object/apply:pytest.fail ['code was run']", "!!python/name:os.system"):
        path.write_text(path.read_text().replace("# schema:", f"# meta: {tag}\n# schema:"))
        with pytest.raises(ConfigError, match="not a readable table"):
            candidate_lists.read_candidates(path)


def test_a_text_on_a_terminal_is_plain():
    assert safe.plain("a\x1b[2J\nb") == "a?[2J?b" and safe.plain("TCA é") == "TCA é"
    assert safe.plain(os.fsdecode(b"night\xff.fits")) == "night?.fits"


def test_compressed_images_that_promise_too_much(tmp_path):
    path = tmp_path / "image.fits.fz"
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((64, 64), np.int16))]).writeto(path)
    assert read_fits(path, image="a")[0].shape == (64, 64)
    data = path.read_bytes()
    for axis in b"12":
        place = data.index(b"ZNAXIS" + bytes([axis]))
        data = data[:place] + f"ZNAXIS{chr(axis)} = {900000:>20}".ljust(80).encode() + data[place + 80 :]
    path.write_bytes(data)
    with pytest.raises(ImageError, match="header promises"):
        read_fits(path, image="a")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("/abs/olute", "abs_olute"),
        ("..", "cutout"),
        ("", "cutout"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("a\x00b\n", "a_b"),
        ("TCA-im1-0001", "TCA-im1-0001"),
        ("x" * 500, "x" * 100),
    ],
)
def test_names_never_lead_elsewhere(text, name):
    assert safe.safe_name(text) == name


def test_a_header_without_end_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    path = tmp_path / "image.fits"
    monkeypatch.setattr(safe, "MAX_CARDS", 360)
    for n, refused in ((300, False), (1000, True)):
        header = fits.PrimaryHDU(np.zeros((4, 4), np.float32)).header.tostring(sep="", endcard=False, padding=False)
        cards = header + ("HISTORY " + "x" * 72) * n + "END" + " " * 77
        content = (cards + " " * (-len(cards) % 2880)).encode() + bytes(2880)
        for fold in (bytes, gzip.compress):
            path.write_bytes(fold(content))
            if refused:
                with pytest.raises(ImageError, match="a header of more than 360 cards is refused"):
                    read_fits(path, image="a")
            else:
                assert read_fits(path, image="a")[0].shape == (4, 4)


def test_damaged_archives_of_any_kind_are_refused_in_a_sentence(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", cube=np.random.default_rng(1).normal(size=(20, 9, 9)), labels=np.arange(20))
    content = (tmp_path / "a.npz").read_bytes()
    rng, refused = np.random.default_rng(2), 0
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 8):
            damaged[place] = int(rng.integers(0, 256))
        (tmp_path / "b.npz").write_bytes(damaged)
        try:
            read_stack(tmp_path / "b.npz")
        except CubeError as error:
            refused += str(error).startswith(str(tmp_path / "b.npz"))
    assert refused > 190
