"""Tables 1 to 5 of the paper: their numbers, and TeX that a compiler would take."""

import re

import pytest

from otrain_core.evaluation.summary import SUMMARY_COLUMNS, summary_row
from otrain_core.io import read_json, read_table
from otrain_core.paper.plan import CUBES, TABLES
from otrain_core.paper.tables import condensed, make_table, tables_files, to_tex


@pytest.mark.parametrize("name", TABLES)
def test_csv_tex_and_caption(name, plan, results, tmp_path):
    files = {"table": tmp_path / "a.csv", "tex": tmp_path / "a.tex", "caption": tmp_path / "a.json"}
    tables_files(name=name, plan=plan, root=results, **files)
    assert len(read_table(files["table"])) and read_json(files["caption"])["made"]
    tex = files["tex"].read_text()
    assert tex.count("{") == tex.count("}")
    head, *rows = re.findall(r"^(.*) \\\\$", tex, flags=re.M)
    columns = len(re.split(r"(?<!\\)&", head))
    assert rows and {len(re.split(r"(?<!\\)&", row)) for row in rows} == {columns}
    assert not re.search(r"(?<!\\)[%_#]", tex.split("\\toprule")[1])


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_data_says_so(name, plan, tmp_path):
    table, facts = make_table(name, plan | {"telescopes": {}}, root=tmp_path)
    assert table.empty and facts["missing"]
    assert to_tex(name, table, "none").startswith("%")


def test_arrays_of_the_paper_come_first(plan, results):
    table, _ = make_table("table1", plan, root=results)
    assert list(table["array"][:7]) == ["cube", "labels", "mags", "errmags", "filters", "fwhms", "candids"]
    assert (table["in_paper"] == "yes").sum() == 7


def test_unknown_cells_of_the_paper_stay_empty(plan, results):
    table = make_table("table2", plan, root=results)[0].set_index("telescope")
    assert table.loc["FRAM-CTA-N", "paper_aperture"] == 0.25 and table.loc["JAST", "paper_pixel_scale"] == 0.58
    assert table["paper_aperture"].isna().sum() == 3 and table.loc["TACA", "paper_filters"] == ""


def test_counts_are_those_of_the_cubes(plan, results):
    table, _ = make_table("table3", plan, root=results)
    assert list(table.columns[:4]) == ["telescope", "pipeline", "n_true", "n_false"]
    assert list(table["telescope"] + "/" + table["pipeline"]) == list(CUBES)
    record = read_json(results / "TCA/gmadet/cube.json")
    assert table[["n_true", "n_false"]].iloc[-1].tolist() == [record["n_true"], record["n_false"]]


def test_confusion_adds_up(plan, results):
    table, facts = make_table("table4", plan, root=results)
    assert table["share"].sum() == pytest.approx(1) and facts["protocol"] == "random"
    by = table.set_index("component")
    headline = read_json(results / "JAST/gmadet/paper/seed1/random/metrics.json")["headline"]
    assert by.loc["FP", "share"] == pytest.approx(headline["fp_share"])
    assert by.loc["TP", "count"] + by.loc["FN", "count"] == headline["n_true"]


def test_table5_has_the_columns_of_the_summary_and_the_papers_values(plan, results):
    table, facts = make_table("table5", plan, root=results)
    assert list(table.columns[: len(SUMMARY_COLUMNS)]) == list(SUMMARY_COLUMNS)
    assert len(table) == 5 * 2 * 2 * 2 and facts["done"] == len(table)
    row = summary_row(results / "TCA/gmadet/otrain2/seed2")
    mine = table[(table["telescope"] == "TCA") & (table["experiment"] == "otrain2") & (table["protocol"] == "by-image")]
    assert mine["mcc"].iloc[1] == row["mcc"]
    assert set(mine["paper_threshold"]) == {0.34} and set(table["paper_mcc_low"]) == {0.84}


def test_condensed_is_the_mean_over_seeds(plan, results):
    table, _ = make_table("table5", plan, root=results)
    short = condensed(table)
    assert len(short) == 5 * 2 * 2 and set(short["Seeds"]) == {"2"}
    mine = table[(table["telescope"] == "JAST") & (table["pipeline"] == "gmadet") & (table["experiment"] == "paper")]
    mine = mine[mine["protocol"] == "by-image"]
    line = short[(short["Cube"] == "JAST-gmadet") & (short["Network"] == "paper") & (short["Split"] == "by image")]
    assert line["MCC"].item().startswith(f"{mine['mcc'].mean():.3f}")
    assert line["p_t, paper"].item() == "0.35"
