"""The claims of the paper against tables of known content."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.paper.claims import complete, gap_knee, list_claims, published_value, read_published

PLAN = {"cubes": ["A/x", "B/x"], "experiments": {"paper": {}}, "protocols": ["by-image"]}
EMPTY = {"data_size": pd.DataFrame(), "size": pd.DataFrame()}


def summary(**values):
    base = {"accuracy": [0.95, 0.97], "mcc": [0.9, 0.95], "fp_share": [0.01, 0.015], "threshold": [0.4, 0.5]} | values
    table = pd.DataFrame(base)
    table["telescope"], table["pipeline"], table["seed"] = ["A", "B"][: len(table)], "x", 1
    return table.assign(experiment="paper", protocol="by-image")


def verdicts(table, **studies):
    return list_claims(table, PLAN, **(EMPTY | studies)).set_index("claim")["reproduced"].tolist()


def gaps(points):
    rows = [
        {
            "telescope": "A",
            "pipeline": "x",
            "experiment": "paper",
            "seed": 1,
            "n_train": n,
            "train_minus_validation": gap,
        }
        for n, gap in points
    ]
    return pd.DataFrame(rows).assign(n_images=20, fit_minus_validation=np.nan)


def test_every_published_value_has_its_place():
    table = read_published()
    assert (table["source"] != "").all() and not table.duplicated(["cube", "quantity"]).any()
    assert published_value("TCA/gmadet", "threshold")["low"] == 0.34
    assert published_value("TCA/gmadet", "mcc") == {}


def test_claims_of_the_cubes():
    assert verdicts(summary())[:4] == ["yes"] * 4
    assert verdicts(summary(accuracy=[0.90, 0.97]))[0] == "partly"
    assert verdicts(summary(mcc=[0.5, 0.6]))[1] == "no"
    assert verdicts(summary(fp_share=[0.02, 0.01]))[2] == "partly"
    assert verdicts(summary(threshold=[0.1, 0.9]))[3] == "no"
    assert verdicts(summary().iloc[:0]) == ["unknown"] * 7


def test_the_worst_cube_is_named():
    claims = list_claims(summary(mcc=[0.5, 0.95]), PLAN, **EMPTY)
    assert claims["why"].iloc[1] == "below the range: A/x 0.500" and claims["ours"].iloc[1] == "0.500 to 0.950"


def test_missing_cubes_leave_the_verdict_open():
    claims = complete(list_claims(summary().iloc[:1], PLAN, **EMPTY))
    assert set(claims["reproduced"]) == {"unknown"}
    assert claims["why"].iloc[0].startswith("yes so far") and "1 of 2 cubes" in claims["why"].iloc[0]


@pytest.mark.parametrize(
    ("points", "start", "last_over"),
    [
        ([(500, 0.05), (2000, 0.03), (5500, 0.01)], 5500, 2000),
        ([(500, -0.05), (2000, 0.01), (5500, 0.01)], 2000, 500),
        ([(500, 0.01), (2000, 0.03), (5500, 0.01)], 5500, 2000),  # it must stay under
        ([(500, 0.01), (2000, 0.01)], 500, np.nan),
        ([(500, 0.05), (2000, 0.02)], np.nan, 2000),
        ([(500, 0.05), (500, -0.05), (2000, 0.0)], 500, np.nan),  # the mean over seeds counts
    ],
)
def test_knee(points, start, last_over):
    row = gap_knee(gaps(points), limit=0.02).iloc[0]
    np.testing.assert_equal([row["stays_under_from"], row["last_over"]], [start, last_over])


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        ([(1000, 0.05), (4000, 0.03), (5500, 0.01)], "yes"),
        ([(1000, 0.05), (4000, 0.01), (5500, 0.01)], "partly"),
        ([(1000, 0.01), (5500, 0.03)], "no"),
        ([(1000, -0.05), (4000, 0.03)], "unknown"),  # the half above 5,000 is open
        ([(1000, 0.05), (4000, 0.01)], "partly"),  # the half below fails, whatever is above
        ([(1000, 0.001), (4000, 0.01)], "no"),
    ],
)
def test_claim_of_the_knee(points, verdict):
    assert verdicts(summary(), data_size=gaps(points))[4:6] == ["unknown", verdict]  # no gap by the paper's definition


def test_the_paper_defines_its_gap_by_the_last_epoch():
    table = gaps([(1000, 0.001), (5500, 0.001)]).assign(fit_minus_validation=[-0.04, -0.01])
    assert verdicts(summary(), data_size=table)[4:6] == ["yes", "partly"]
    assert gap_knee(table, limit=0.02, column="fit_minus_validation")["last_over"].iloc[0] == 1000


def test_a_gap_the_other_way_round_is_told():
    claims = list_claims(summary(), PLAN, **(EMPTY | {"data_size": gaps([(500, -0.2), (1000, 0.05), (5500, 0.01)])}))
    assert (
        "2 of 2 points with fewer are over it (gaps from -20.0 to 5.0 %), 1 of these because validation is better"
        in claims["why"][5]
    )


def test_cubes_of_other_sizes_are_not_mixed():
    table = pd.concat([gaps([(500, 0.05)]), gaps([(500, -0.05)]).assign(n_images=10)])
    assert list(gap_knee(table, limit=0.02)["last_over"]) == [500, 500]


def sizes(above, n_images=27):
    """The study of the size of the cutouts, one seed; `above` is (size, MCC) beyond 48 px."""
    rows = [{"value": value, "mcc": mcc} for value, mcc in ((32, 0.9), (48, 0.9), *above)]
    about = {"telescope": "JAST", "pipeline": "stdpipe", "n_images": n_images, "experiment": "paper", "seed": 1}
    return pd.DataFrame(rows).assign(**about)


def test_claim_of_the_collapse():
    def verdict(above):
        return verdicts(summary(), size=sizes(above))[6]

    assert verdict([(55, 0.1), (63, 0.0)]) == "yes"
    assert verdict([(55, 0.9), (63, 0.0)]) == "partly"
    assert verdict([(55, 0.9), (63, 0.88)]) == "no"
    assert verdict([]) == "unknown"


def test_collapse_of_cubes_of_two_sizes():
    table = pd.concat([sizes([(63, 0.8)]), sizes([(55, 0.1), (63, 0.2)], n_images=12)])
    row = list_claims(summary(), PLAN, **(EMPTY | {"size": table})).iloc[6]
    assert row["ours"] == (
        "cube of 27 images: MCC 0.800 above 48 px, 0.900 up to it; cube of 12 images: MCC 0.100 to 0.200 above 48 px, 0.900 up to it"
    )
    assert (row["reproduced"], row["seeds"]) == ("partly", 1)
    assert row["why"] == "the MCC is below 0.2 (random) at 1 of 3 sizes above 48 px"
