import pandas as pd
import pytest

from tools import scale


def test_per_cutout_leaves_out_the_start():
    table = pd.DataFrame(
        {
            "step": ["train", "assemble", "train", "assemble"],
            "n": [1000, 1000, 3000, 3000],
            "images": [3, 3, 8, 8],
            "cpu_seconds": [8.0, 1.0, 10.0, 1.5],
            "memory_mb": [500.0, 100.0, 500.0, 104.0],
            "commit": "c",
        }
    )
    got = scale.per_cutout(table.sample(frac=1, random_state=1))
    assert got["step"].tolist() == ["assemble", "assemble", "train", "train"]
    assert got["n"].tolist() == [1000, 3000, 1000, 3000]
    assert got["cpu_us_per_cutout"].tolist()[1::2] == pytest.approx([250, 1000])
    assert got["memory_bytes_per_cutout"].tolist()[1::2] == pytest.approx([2000, 0])
    assert got.loc[got["n"] == 1000, ["cpu_us_per_cutout", "memory_bytes_per_cutout"]].isna().all(axis=None)


def test_no_step_holds_the_pixels_of_the_cube(tmp_path):
    """8000 cutouts more are 164 MB of pixels; assembly, split and training (from a file) take far less memory more."""
    table = scale.per_cutout(scale.measure((8000, 16_000), steps=scale.STEPS[:3], folder=tmp_path, in_memory=0))
    grown = table[table["n"] == 16_000].set_index("step")
    assert list(grown.index) == list(scale.STEPS[:3])
    assert grown["memory_bytes_per_cutout"].max() < 0.4 * 4 * 5 * scale.SIDE**2, grown
    assert (grown["cpu_us_per_cutout"] < 20_000).all(), grown
    assert not list(tmp_path.iterdir())


def test_a_cube_that_does_not_fit_the_disk_is_left_out(tmp_path, capsys):
    assert scale.measure((10**12,), folder=tmp_path).empty
    assert "1000000000000 cutouts: " in capsys.readouterr().err
