"""Tables of a run, kept in the repository and quoted in the README."""

import shutil
import subprocess
import sys

from otrain_core.io import read_json, read_table, write_json
from tools.publish import publish, published_table


def test_the_readme_quotes_the_closing_table(root, tmp_path):
    run = tmp_path / "results"
    shutil.copytree(root / "results/published/demo", run)
    write_json(run / "demo/builtin/paper/seed1/train.json", {"commit": "abc", "time": "now", "cpus": 2, "versions": {}})
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- kept from here -->\nbygone\n<!-- to here -->\nafter\n")
    publish(run, tmp_path / "kept", readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "bygone" not in text
    assert published_table(tmp_path / "kept") in text
    assert read_json(tmp_path / "kept" / "about.json")["commit"] == "abc"
    assert len(read_table(tmp_path / "kept" / "summary.csv")) == len(read_table(run / "summary.csv"))


def test_usage(root):
    run = subprocess.run([sys.executable, "-m", "tools.publish"], cwd=root, capture_output=True, text=True)
    assert run.returncode == 1 and "usage" in run.stderr
