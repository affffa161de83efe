"""The rules of the paper as jobs: parts that need no data, and parts that report missing data."""

import json

from tests.workflow.test_dry_run import planned_jobs, snakemake


def test_figures_are_made_as_jobs(root, tmp_path):
    wanted = [
        "results/paper/fig01.png",
        "results/paper/fig01.pdf",
        "results/paper/fig06.png",
        "results/paper/table3.tex",
    ]
    command = ["--cores", "2", "--directory", str(tmp_path), "--", *wanted]
    snakemake(root, *command)
    assert all((tmp_path / path).stat().st_size > 0 for path in wanted)
    made = {name: json.loads((tmp_path / f"results/paper/{name}.json").read_text()) for name in ("fig01", "fig06")}
    assert made["fig01"]["made"] and not made["fig06"]["made"]  # the demo contains no cube of the paper
    assert "2\u202f621\u202f826 parameters" in made["fig01"]["same"]
    assert "Nothing to be done" in snakemake(root, "-n", *command).stdout
    assert planned_jobs(snakemake(root, "-n", "--forcerun", "paper_data", *command).stdout)["paper_figures"] == 2
