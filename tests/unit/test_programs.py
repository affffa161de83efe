"""External programs: found by any of their names, asked for before any work, named when missing."""

import pytest

from otrain_core.errors import MissingProgramError
from otrain_core.plan.config import Config
from otrain_core.programs import PROGRAMS, find_program, needed_programs, require_programs


def options(name):
    return Config().pipelines[name].model_dump()


def install(folder, *names):
    for name in names:
        path = folder / name
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_name_of_a_program_is_found(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError, match=f"the program {name} is not on the PATH; it is to be had as"):
        find_program(name)
    for executable in reversed(PROGRAMS[name][0]):
        install(tmp_path, executable)
        assert find_program(name) == str(tmp_path / executable)


def test_a_path_in_the_configuration_wins_and_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    install(tmp_path, "hotpants", "other")
    assert find_program("hotpants", path=str(tmp_path / "other")) == str(tmp_path / "other")
    with pytest.raises(MissingProgramError, match="subtract.hotpants_program"):
        find_program("hotpants", path=str(tmp_path / "none"))


def test_builtin_needs_no_program():
    assert needed_programs(options("builtin")) == []


def test_gmadet_needs_the_programs_of_its_recipe(tmp_path, monkeypatch):
    names = {program for program, _, _ in needed_programs(options("gmadet"))}
    assert names == {"source-extractor", "psfex", "scamp", "swarp", "hotpants"}
    monkeypatch.setenv("PATH", str(tmp_path))
    install(tmp_path, "sex", "psfex", "scamp", "SWarp")
    with pytest.raises(MissingProgramError, match="pipelines.gmadet: subtract.method: hotpants: the program hotpants"):
        require_programs(options("gmadet"), name="gmadet")


def test_a_fallback_makes_hotpants_optional(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    install(tmp_path, "sex", "psfex", "scamp", "SWarp")
    wanted = options("gmadet")
    wanted["subtract"]["fallback"] = "alard-lupton"
    require_programs(wanted, name="gmadet")
    wanted["subtract"]["fallback"] = "none"
    with pytest.raises(MissingProgramError, match="hotpants"):
        require_programs(wanted, name="gmadet")
