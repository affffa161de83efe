import numpy as np
import pandas as pd
import pytest

from otrain_core import io
from otrain_core.candidates.crossmatch import crossmatch_candidates, crossmatch_files
from otrain_core.errors import ImageError
from otrain_core.plan.pipelines import CrossmatchOptions
from otrain_core.sky.causes import name_causes

SEEING = 2.0


def candidates(*rows, flux=1000.0):
    table = pd.DataFrame(rows, columns=["x", "y"], dtype=float)
    table["flux"], table["fluxerr"], table["negative"], table["edge"] = flux, 10.0, 0.0, False
    table["ra"], table["dec"] = 30 + table["x"] / 3600, 0.0 + table["y"] / 3600
    return table


def injections(*rows, flux=1000.0):
    table = pd.DataFrame(rows, columns=["x", "y"], dtype=float)
    table.insert(0, "id", np.arange(len(table)) + 11)
    table["mag"], table["flux"] = 20.0, flux
    return table


def label(found, truth, *, seeing=SEEING, **given):
    asked = {key: given.pop(key) for key in list(given) if key in CrossmatchOptions.model_fields}
    section = CrossmatchOptions(**asked)
    return crossmatch_candidates(found, truth, image="a", seeing=seeing, options=section, **given)


def test_labels_and_reasons():
    found = candidates((100, 100), (103, 100), (200, 200), (50.9, 50))
    table, record = label(found, injections((100.4, 100), (50, 50)))
    assert table["label"].tolist() == [1, -1, 0, 1]
    assert table["injection"].tolist() == [11, -1, -1, 12]
    assert table["reason"].tolist() == [
        "injection 11 at 0.20 FWHM",
        "not the match of injection 11 at 1.30 FWHM",
        "no injection within 2.0 FWHM",
        "injection 12 at 0.45 FWHM",
    ]
    assert (record["n_true"], record["n_false"], record["n_left_out"]) == (2, 1, 1)
    assert record["left_out"]["not_the_match"] == 1 and record["n_recovered"] == 2
    assert (table["seeing"] == SEEING).all()


def test_edge_counts_as_recovered_but_gets_no_label():
    found = candidates((100, 100))
    found["edge"] = True
    table, record = label(found, injections((100, 100)))
    assert table["label"].tolist() == [-1] and table["reason"].tolist() == ["EDGE"]
    assert record["n_recovered"] == 1 and record["left_out"]["edge"] == 1


def test_known_objects_are_left_out():
    found = candidates((100, 100), (400, 400))
    known = pd.DataFrame({"ra": [30 + 101 / 3600], "dec": [100 / 3600]})
    table, record = label(found, injections((900, 900)), known=known, known_radius=1.0, seeing_arcsec=2.0)
    assert table["label"].tolist() == [-1, 0] and "known object" in table["reason"][0]
    assert record["left_out"]["known_object"] == 1


def test_one_place_or_one_object_without_a_position_does_not_refuse_the_others():
    found = candidates((100, 100), (400, 400), (700, 700))
    found.loc[1, "ra"] = np.nan
    known = pd.DataFrame({"ra": [np.nan, 30 + 101 / 3600, 10.0], "dec": [5.0, 100 / 3600, 95.0]})
    table, record = label(found, injections((900, 900)), known=known, known_radius=1.0, seeing_arcsec=2.0)
    assert table["label"].tolist() == [-1, 0, 0] and record["left_out"]["known_object"] == 1
    assert (label(found, injections((900, 900)), known=known[:1], seeing_arcsec=2.0)[0]["label"] == 0).all()


def real_stars():
    table = injections((100, 100), (150, 100), (200, 100))
    return table.assign(kind=["random", "removed", "transplanted"], usable=True)


def test_kinds_and_stars_that_stay_in_the_reference():
    found = candidates((100, 100), (150.3, 100), (200, 100), (152, 100), (400, 400))
    table, record = label(found, real_stars(), removed=[12])
    assert table["label"].tolist() == [1, 1, 1, -1, 0]
    assert table["kind"].tolist() == ["random", "removed", "transplanted", "", ""]
    assert table["reason"].tolist()[1:4] == [
        "removed star 12 at 0.15 FWHM",
        "transplanted star 13 at 0.00 FWHM",
        "not the match of removed star 12 at 1.00 FWHM",
    ]
    assert (record["n_true"], record["n_real_stars"], record["n_injected"], record["n_recovered"]) == (1, 2, 1, 1)
    assert {kind: (row["n"], row["recovered"]) for kind, row in record["kinds"].items()} == dict.fromkeys(
        ("random", "removed", "transplanted"), (1, 1)
    )
    assert sum(row["injected"] for row in record["completeness"]) == 1

    table, record = label(found, real_stars())
    assert table["label"].tolist() == [1, -1, 1, -1, 0]
    assert table["reason"].tolist()[1] == table["reason"].tolist()[3] == "star not removed from the reference"
    assert record["left_out"]["not_removed"] == 2 and "removed" not in record["kinds"]
    assert record["near_injection_false"] == 0


def test_what_a_transplanted_star_brings_along_is_no_false():
    """Its stamp has a radius of 4 FWHM; around other sources only the exclusion of 2 FWHM holds."""
    found = candidates((200, 100), (207.5, 100), (208.5, 100), (107.5, 100), (157.5, 100))
    table, record = label(found, real_stars(), removed=[12])
    assert table["label"].tolist() == [1, -1, 0, 0, 0]
    assert table["reason"].tolist()[1] == "in the stamp of a transplanted star"
    assert record["left_out"]["in_a_stamp"] == 1 and record["n_left_out"] == 1


def test_flux_bias_of_every_kind():
    found = candidates((100, 100), (150, 100), (200, 100))
    found["flux"] = [1000.0, 1100.0, 900.0]
    _, record = label(found, real_stars(), removed=[12])
    biases = [record["kinds"][kind]["flux_bias"] for kind in ("random", "removed", "transplanted")]
    np.testing.assert_allclose(biases, [0.0, 0.1, -0.1])
    assert record["flux_bias"] == 0 and record["n_flux"] == 1


def many(n=40, *, seen=40, ratio=1.0):
    truth = injections(*((30.0 * k, 50.0) for k in range(n)))
    found = candidates(*((30.0 * k, 50.0) for k in range(seen)), (5000, 5000))
    found["flux"] = ratio * 1000.0
    return found, truth


def test_outliers_of_the_flux_are_judged_and_do_not_count_as_recovered():
    """With a reference in a non-linear scale, every source gets several times its flux."""
    found, truth = many(ratio=5.0)
    with pytest.raises(ImageError, match=r"40 bright injected sources are off by \+400 % \(median\)"):
        label(found, truth, limit_mag=22.0)
    found["flux"] = 5000.0
    found["fluxerr"] = 1000.0  # S/N 5: too faint for the flux scale, but none is recovered
    with pytest.raises(ImageError, match="only 0 of 40 sources injected above S/N 10 were found again with their flux"):
        label(found, truth, limit_mag=22.0)
    table, record = label(found, truth)  # without a limit their S/N is unknown
    assert record["n_recovered"] == 0 and record["left_out"]["foreign_flux"] == 40 and record["n_true"] == 0
    assert sum(row["recovered"] for row in record["completeness"]) == 0


def test_a_match_without_a_flux_or_with_a_negative_one_is_left_out():
    found, truth = many(n=30, seen=30)
    found.loc[0, "flux"], found.loc[1, "flux"] = np.nan, -900.0
    table, record = label(found, truth)
    assert table["label"].tolist()[:3] == [-1, -1, 1]
    assert table["reason"].tolist()[:2] == [
        "injection 11 at 0.00 FWHM, without a flux",
        "not the match of injection 12 at 0.00 FWHM",
    ]
    assert (record["n_recovered"], record["n_matched"], record["n_without_flux"]) == (28, 29, 1)
    found.loc[:5, "flux"] = np.nan
    with pytest.raises(ImageError, match="6 of 30 injected sources that were found have no flux"):
        label(found, truth)


@pytest.mark.parametrize("seed", range(3))
def test_no_false_beside_an_injection(seed):
    rng = np.random.default_rng(seed)
    found = candidates(*rng.uniform(0, 100, (400, 2)))
    truth = injections(*rng.uniform(0, 100, (40, 2)))
    table, record = label(found, truth, radius=0.75, exclusion=1.0)
    assert record["near_injection_false"] == 0 < record["n_false"]
    # If the exclusion radius is too small, the check finds them.
    _, record = label(found, truth, radius=0.3, exclusion=0.3)
    assert record["near_injection_false"] > 0


def test_nothing_found_and_nothing_injected():
    table, record = label(candidates((1, 1)).iloc[:0], injections((5, 5)))
    assert len(table) == 0 and record["n_recovered"] == 0 and record["n_injected"] == 1
    table, record = label(candidates((1, 1)), injections((5, 5)).iloc[:0])
    assert table["label"].tolist() == [0] and record["completeness"] == []


def test_causes_of_false_candidates():
    truth = pd.DataFrame(
        {
            "kind": ["star", "star", "cosmic", "bad_column"],
            "x": [50.0, 100.0, 50.5, 200.0],
            "y": [50.0, 100.0, 50.0, 150.0],
            "flux": [1e3, 1e6, np.nan, np.nan],
            "size": [2.0, 2.0, 4.0, 300.0],
            "width": [2.0, 2.0, 2.0, 1.0],
            "angle": [0.0, 0.0, 0.0, 90.0],
        }
    )
    x, y = np.array([51.0, 100.0, 110.0, 200.3, 300.0, 47.5]), np.array([50.0, 101.0, 100.0, 20.0, 300.0, 50.0])
    causes = name_causes(truth, x, y, np.full(6, 100.0), seeing=SEEING)
    assert causes.tolist() == ["cosmic", "star", "star", "bad_column", "noise", "cosmic"]
    table, record = label(candidates(*zip(x, y, strict=True)), injections((300, 300)), sky_truth=truth)
    assert table["artefact"].tolist()[4] == ""  # the injected source is not an artefact
    assert record["artefacts"] == {"bad_column": 1, "cosmic": 2, "star": 2}


def test_variables_and_asteroids_are_causes_and_removed_stars_are_not():
    truth = pd.DataFrame(
        {"kind": ["star", "variable", "asteroid", "star"], "x": [51.0, 50.0, 100.0, 150.0], "y": 100.0}
    )
    truth = truth.assign(flux=1e3, size=2.0, width=2.0, angle=0.0, known=[np.nan, 1, 0, np.nan])
    x = np.array([51.0, 102.0, 104.0, 150.0])
    causes = name_causes(truth, x, np.full(4, 100.0), np.full(4, 900.0), seeing=SEEING)
    assert causes.tolist() == ["variable", "asteroid", "noise", "star"]
    stars = injections((150, 100)).assign(kind="removed")
    found = candidates((152.4, 100))
    table, _ = label(found, stars, sky_truth=truth, exclusion=1.0, removed=[11])
    assert table["label"].tolist() == [0] and table["artefact"].tolist() == ["noise"]
    table, _ = label(found, stars.iloc[:0], sky_truth=truth, exclusion=1.0)
    assert table["artefact"].tolist() == ["star"]


@pytest.mark.parametrize(
    "found, truth, options, match",
    [
        (candidates((1, 1)).drop(columns="flux"), injections((1, 1)), {}, "crossmatch.candidates.*no column 'flux'"),
        (candidates((1, 1)), injections((1, 1)).drop(columns="id"), {}, "crossmatch.injected.*no column 'id'"),
        (candidates((1, 1)), injections((1, 1)), {"seeing": np.nan}, "crossmatch.seeing"),
        (
            candidates((1, 1)).assign(ra=np.nan),
            injections((90, 90)),
            {"known": pd.DataFrame({"ra": [1.0], "dec": [1.0]}), "seeing_arcsec": 2.0},
            "crossmatch.known: .*WCS",
        ),
        (
            candidates((1, 1)),
            injections((90, 90)),
            {"known": pd.DataFrame({"ra": [1.0], "decl": [1.0]}), "seeing_arcsec": 2.0},
            "crossmatch.known: .*no column 'dec'",
        ),
    ],
)
def test_bad_input(found, truth, options, match):
    with pytest.raises(ImageError, match=match):
        label(found, truth, **options)


def test_files(tmp_path):
    io.write_table(tmp_path / "c.csv", candidates((100, 100), (200, 200)))
    io.write_table(tmp_path / "i.csv", injections((100, 100)))
    io.write_json(tmp_path / "psf.json", {"seeing_px": 2.0, "seeing_arcsec": 2.0})
    known = tmp_path / "known.csv"
    known.write_text(f"name,ra,dec,kind\nV1,{30 + 200 / 3600},{200 / 3600},variable\n")
    arguments = {
        "candidates": tmp_path / "c.csv",
        "injected": tmp_path / "i.csv",
        "psf_record": tmp_path / "psf.json",
        "sky_truth": None,
        "labelled": tmp_path / "l.csv",
        "record": tmp_path / "r.json",
        "image": "a",
    }
    options = CrossmatchOptions()
    crossmatch_files(**arguments, options=options)
    assert io.read_table(tmp_path / "l.csv")["label"].tolist() == [1, 0]
    crossmatch_files(**arguments, known=known, options=options)
    assert io.read_table(tmp_path / "l.csv")["label"].tolist() == [1, -1]
    assert io.read_json(tmp_path / "r.json")["n_left_out"] == 1
    known.write_text("name,ra,dec,kind\n")
    crossmatch_files(**arguments, known=known, options=options)
    assert io.read_table(tmp_path / "l.csv")["label"].tolist() == [1, 0]
    table = real_stars().assign(x=[100.0, 200.0, 300.0], y=[100.0, 200.0, 300.0])
    io.write_table(tmp_path / "i.csv", table)
    for removed in ([12], {"removed": [12]}):
        io.write_json(tmp_path / "subtract.json", {"removed": removed})
        crossmatch_files(**arguments, subtract_record=tmp_path / "subtract.json", options=options)
        labelled = io.read_table(tmp_path / "l.csv")
        assert labelled["label"].tolist() == [1, 1] and labelled["kind"].tolist() == ["random", "removed"]
    io.write_json(tmp_path / "subtract.json", {"image": "a"})
    crossmatch_files(**arguments, subtract_record=tmp_path / "subtract.json", options=options)
    assert io.read_table(tmp_path / "l.csv")["label"].tolist() == [1, -1]


def test_star_residuals_with_negative_signal_are_dipoles():
    truth = pd.DataFrame({"kind": ["star"] * 3 + ["galaxy"], "x": [50.0, 150, 250, 350], "y": 50.0, "flux": 1e4})
    truth["size"], truth["width"], truth["angle"] = 0.0, 0.0, 0.0
    found = candidates((50, 50), (150, 50), (250, 50), (350, 50))
    found["negative"] = [0.45, 0.1, 0.0, 0.45]
    table, record = label(found, injections()[:0], sky_truth=truth)
    assert table["artefact"].tolist() == ["dipole", "star", "star", "galaxy"]
    assert record["artefacts"] == {"dipole": 1, "galaxy": 1, "star": 2}


def test_a_star_taken_out_of_the_science_image_needs_no_change_of_the_reference():
    truth = injections((100, 100), (200, 200)).assign(flux=-1000.0, kind=["vanished", "random"])
    found = candidates((100, 100), (200, 200)).assign(flux=-1000.0)
    table, record = label(found, truth)
    assert table["label"].tolist() == [1, -1] and table["kind"].tolist() == ["vanished", ""]
    assert (record["n_real_stars"], record["n_true"], record["left_out"]["not_removed"]) == (1, 0, 1)
