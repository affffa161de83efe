import json

from tools import bench


def test_the_better_network_is_cheaper_and_the_file_says_by_how_much(tmp_path, capsys):
    assert bench.main(str(tmp_path / "bench.json"), n_cutouts=256) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert all(set(row) == {"name", "unit", "ours", "reference", "ratio", "note"} for row in rows)
    found = {row["name"]: row for row in rows}
    assert found["parameters"]["reference"] == 2621826
    assert found["operations for one cutout"]["ratio"] < 0.2
    # The bar is 3; a loaded machine must not fail the test.
    assert found["cutouts trained"]["ratio"] > 1.5
    assert found["scored by ONNX Runtime, Keras"]["ratio"] > 0.8
    assert found["FITS files classified"]["ratio"] > 2
    assert "ratio" in capsys.readouterr().out
