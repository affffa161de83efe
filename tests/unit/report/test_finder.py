import pandas as pd
import pytest

from otrain_core.report.finder import finder_parts


def write(folder, *, seeds=(1, 2)):
    rows = {"completeness": [], "curves": [], "precision": [], "stress": []}
    for seed in seeds:
        for name, found in (("detector", 0.5), ("finder", 0.6 + 0.1 * seed)):
            row = {"detector": name, "seed": seed}
            bounds = {
                "completeness_low": found - 0.1,
                "completeness_high": found + 0.1,
                "gain_low": 0,
                "gain_high": 0.2,
            }
            main = {"snr_low": 5.0, "snr_high": 10.0, "kind": "all", "false_alarms": 1.0, "n": 40}
            rows["completeness"].append(row | bounds | main | {"completeness": found, "gain": found - 0.5})
            rows["curves"].append(row | {"false_alarms": 1.0, "completeness": found})
            rows["precision"].append(row | {"position_ratio": 1.2, "flux_scatter": 0.1})
            for test in ("no mask", "pairs 2 FWHM apart"):
                rows["stress"].append(row | {"test": test, "images": 3, "completeness": found})
    folder.mkdir(parents=True)
    for name, table in rows.items():
        pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)


def test_a_cube_that_was_judged_has_a_part(tmp_path):
    write(tmp_path / "t/p/finder")
    (part,) = finder_parts(tmp_path, ["t/p", "t/other"])
    assert part["name"] == "t/p" and part["seeds"] == 2 and part["n"] == 40 and part["stressed_images"] == 3
    assert part["figure"].startswith("data:image/png;base64,")
    finder = part["detectors"][1]
    assert finder["name"] == "finder" and finder["completeness"] == pytest.approx(0.75)
    assert finder["gain"] == pytest.approx(0.25) and finder["position_ratio"] == pytest.approx(1.2)
    assert part["tests"][0]["name"] == "no mask" and part["tests"][0]["cells"] == pytest.approx([0.5, 0.75])


def test_without_the_study_there_is_none(tmp_path):
    write(tmp_path / "t/p/finder")
    (tmp_path / "t/p/finder/stress.csv").unlink()
    assert finder_parts(tmp_path, ["t/p"]) == []
