"""Files from strangers: each refusal is told in a sentence, before memory is taken."""

import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
from astropy.io import fits

from otrain_core import safe
from otrain_core.cube import read_cube
from otrain_core.errors import CubeError, ImageError
from otrain_core.io import read_arrays, read_fits
from otrain_core.stacks import read_stack


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


def test_gzip_bombs_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "image.fits.gz"
    path.write_bytes(gzip.compress(bytes(2**22)))
    monkeypatch.setattr(safe, "SMALL", 2**20)
    with pytest.raises(ImageError, match="decompression bomb"):
        read_fits(path, image="a")


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
        ("a\x00b\n", "a_b"),
        ("TCA-im1-0001", "TCA-im1-0001"),
        ("x" * 500, "x" * 100),
    ],
)
def test_names_never_lead_elsewhere(text, name):
    assert safe.safe_name(text) == name
