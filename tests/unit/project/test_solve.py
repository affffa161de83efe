"""WCS headers from a script in place of the solver, and from solve-field where it is installed."""

import shutil
import stat

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ConfigError, MissingProgramError
from otrain_core.project.look import look_at
from otrain_core.project.solve import solve_frames
from tests.unit.project.frames import sky_cards, write_frame


@pytest.fixture
def solver(tmp_path, monkeypatch):
    """A solve-field that notes its arguments and answers with one WCS, but only without a pointing."""
    fits.Header(sky_cards(10.0, 20.0).items()).tofile(tmp_path / "answer", endcard=True, padding=False)
    program = tmp_path / "bin/solve-field"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase "$*" in *--ra*) exit 1;; esac\n'
        f"cp stars.xyls {tmp_path}/stars.fits\ncp {tmp_path}/answer stars.wcs\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path


def test_frames_without_a_wcs_are_solved(solver):
    data = solver / "data"
    write_frame(data / "a.fit", OBJCTRA="10 00 00", OBJCTDEC="20 00 00")
    write_frame(data / "b.fit", **sky_cards(1.0, 2.0))
    write_frame(data / "dark.fit", IMAGETYP="Dark")
    (found,) = solve_frames([data], output=solver / "out", threads=1)
    assert found == {"path": f"{data}/a.fit", "wcs": f"{solver}/out/a.wcs", "reason": ""}
    first, second = (solver / "calls").read_text().splitlines()
    assert "--ra 150.00000 --dec 20.00000" in first and "--ra" not in second
    assert "--scale-low 0.9901" in second and "--scale-high 1.5470" in second and "--width 200" in second


def test_the_header_written_is_used_and_not_solved_again(solver):
    write_frame(solver / "data/a.fit")
    solve_frames([solver / "data/a.fit"])
    assert look_at(solver / "data")[0].wcs == "a.wcs"
    assert solve_frames([solver / "data"]) == []


def test_the_solver_gets_the_brightest_stars_in_pixels_from_one(solver):
    path = write_frame(solver / "data/a.fit")
    solve_frames([path])
    stars = fits.getdata(solver / "stars.fits")
    assert len(stars) >= 15 and (np.diff(stars["FLUX"]) <= 0).all()
    data = fits.getdata(path).astype(float)
    x, y = (int(round(float(stars[key][0]))) - 1 for key in ("X", "Y"))
    assert data[y, x] > 0.8 * data[y - 3 : y + 4, x - 3 : x + 4].max()


def test_why_a_frame_is_not_solved(solver):
    fits.PrimaryHDU(np.random.default_rng(1).normal(100, 5, (100, 100)).astype("f4")).writeto(solver / "noise.fits")
    (found,) = solve_frames([solver / "noise.fits"])
    assert found["wcs"] is None and "stars were found; at least 8 are needed" in found["reason"]
    with pytest.raises(ConfigError, match="no such file or folder"):
        solve_frames([solver / "none"])


def test_a_file_with_several_images_is_not_solved(solver):
    hdus = [fits.PrimaryHDU()] + [fits.ImageHDU(np.ones((80, 80), np.float32), name=f"CCD{k}") for k in (1, 2)]
    fits.HDUList(hdus).writeto(solver / "m.fits")
    (found,) = solve_frames([solver / "m.fits"])
    assert found["path"] == f"{solver}/m.fits[*]" and found["wcs"] is None
    assert "the file holds several images" in found["reason"] and not (solver / "calls").exists()


def test_without_the_program_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingProgramError, match="packages astrometry.net and astrometry-data-tycho2"):
        solve_frames([tmp_path])


@pytest.mark.skipif(shutil.which("solve-field") is None, reason="solve-field is not installed")
def test_a_real_frame(shared_data, tmp_path):
    path = sorted((shared_data / "hatp32/frames").iterdir())[0]
    shutil.copy(path, tmp_path)
    (found,) = solve_frames([tmp_path])
    if "index files" in found["reason"]:
        pytest.skip("no index files for this field are installed")
    (frame,) = look_at(tmp_path)
    theirs = look_at(shared_data / "hatp32")[0]
    assert np.hypot((frame.ra - theirs.ra) * np.cos(np.deg2rad(frame.dec)), frame.dec - theirs.dec) * 3600 < 10
