"""What is measured of HOTPANTS: its CPU time, its version, and the image that it works on; with a program in its place."""

import pytest

from otrain_core.plan.pipelines import GMADET
from otrain_core.plan.recipe import Recipe
from otrain_core.plan.telescopes import Detector
from tools.beside_hotpants import counting, first_image, program_seconds, version, with_method


def test_the_cpu_time_of_a_program_and_its_status(tmp_path):
    import subprocess

    program = tmp_path / "program"
    program.write_text("#!/bin/sh\ni=0\nwhile [ $i -lt 200000 ]; do i=$((i+1)); done\nexit $1\n")
    program.chmod(0o755)
    command, times = counting(str(program), tmp_path)
    assert subprocess.run([command, "0"]).returncode == 0
    first = program_seconds(times)
    assert 0.02 < first < 60
    assert subprocess.run([command, "3"]).returncode == 3
    assert len(times.read_text().splitlines()) == 4  # of the shell and of its children, each time
    times.write_text("0m0.00s 0m0.01s\n1m2.50s 0m0.25s\n")
    assert program_seconds(times) == pytest.approx(62.75)


def test_the_version(tmp_path):
    program = tmp_path / "hotpants"
    program.write_text("#!/bin/sh\necho 'Usage:  hotpants [options]'\necho 'Version 5.1.11'\nexit 1\n")
    program.chmod(0o755)
    assert version(str(program)) == "5.1.11"


def test_there_is_no_stand_in():
    recipe = with_method(Recipe(GMADET, Detector()), "hotpants", "/x/hotpants")
    options = recipe.pipeline.subtract
    assert (options.method, options.fallback, options.hotpants_program) == ("hotpants", None, "/x/hotpants")
    assert options.hotpants_options == GMADET.subtract.hotpants_options


def test_injections_go_with_the_area(monkeypatch, root):
    monkeypatch.chdir(root)
    monkeypatch.setattr("otrain_core.plan.run.require_programs", lambda *args, **options: None)
    chain = first_image("JAST/gmadet", ["config/paper.yaml"], side=1024)
    assert (chain.simulated.sky.width, chain.pipeline.inject.n_sources, len(chain.frames)) == (1024, 100, 1)
    whole = first_image("JAST/gmadet", ["config/paper.yaml"], side=None)
    assert (whole.simulated.sky.width, whole.pipeline.inject.n_sources) == (2048, 400)
