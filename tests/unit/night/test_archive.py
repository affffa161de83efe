"""Search of an archive: each image once, despite bad images, copies and restarts; read back by other tools."""

import errno
import shutil

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from otrain_core.errors import ConfigError
from otrain_core.io import digest, read_json, read_table
from otrain_core.night import archive as module
from otrain_core.night.archive import archive_files
from otrain_core.night.nights import nights_files
from otrain_core.plan.archive import ArchiveOptions
from otrain_core.plan.pipelines import Pipeline
from otrain_core.plan.recipe import Recipe
from otrain_core.plan.telescopes import Detector
from tests.unit.synthetic_night import NEW, nearest
from tests.unit.tiny_onnx import write_tiny


@pytest.fixture
def archive(night_pair, tmp_path):
    """Images of two nights with the same name, a copy, a broken and a missing one; a function that runs a job, and options."""
    science, reference, _ = night_pair
    with fits.open(science) as hdus:
        data, header = hdus[0].data, hdus[0].header
    for number, night in enumerate(("01", "02")):
        (tmp_path / night).mkdir()
        header["DATE-OBS"] = f"2024-03-{night}T22:00:00"
        fits.PrimaryHDU(data + number, header).writeto(tmp_path / night / "im.fits")
    shutil.copy(tmp_path / "01/im.fits", tmp_path / "copy.fits")
    (tmp_path / "broken.fits").write_bytes(b"no FITS file at all")
    model = tmp_path / "model.onnx"
    recipe = Recipe(Pipeline(), Detector(), telescope="T", name="builtin").record()
    write_tiny(model, size=21, channels=("difference", "psf"), about={"recipe": recipe})
    options = ArchiveOptions(model=str(model), references=str(reference))
    images = [{"path": str(tmp_path / name)} for name in ("01/im.fits", "02/im.fits", "copy.fits", "broken.fits", "no")]

    def run(options=options):
        archive_files(images=images, folder=tmp_path / "out", record=tmp_path / "out/jobs/00000.json", options=options)
        return read_json(tmp_path / "out/jobs/00000.json")["images"]

    return run, options, tmp_path / "out"


def test_an_archive(archive, monkeypatch):
    run, options, folder = archive
    items = run()
    assert [item["status"] for item in items] == ["done", "done", "done", "refused", "gone"]
    assert "broken.fits" in items[3]["reason"]
    table = pd.read_parquet(folder / "candidates")
    assert set(table["night"].astype(str)) == {"2024-03-01", "2024-03-02"}
    assert len(table) == items[0]["n"] + items[1]["n"] and table["candid"].is_unique
    for _, part in table.groupby("night", observed=True):
        for x, y, flux in NEW:
            row, distance = nearest(part, (x, y))
            assert distance < 0.5
            assert part["mag"].iloc[row] == pytest.approx(30 - 2.5 * np.log10(flux), abs=0.15)
    assert sorted(path.name for path in folder.iterdir()) == ["candidates", "images", "jobs", "unfinished"]

    searched, search = [], module.search_image
    with monkeypatch.context() as patch:
        patch.setattr(module, "search_image", lambda path, **more: searched.append(path) or search(path, **more))
        again = run()
    assert [path.rpartition("/")[2] for path in searched] == ["broken.fits"]  # refused images are tried again
    assert again == items
    # With other options the images are searched again.
    assert run(options.model_copy(update={"both_signs": True}))[0]["n"] > items[0]["n"]
    assert len(list(folder.glob("candidates/*/*.parquet"))) == 2

    nights_files(records=[folder / "jobs/00000.json"], nights=folder / "nights.csv", images=folder / "images.csv")
    nights, images = read_table(folder / "nights.csv"), read_table(folder / "images.csv")
    assert list(nights["night"]) == ["2024-03-01", "2024-03-02"] and list(nights["images"]) == [1, 1]
    assert nights["candidates"].sum() == len(pd.read_parquet(folder / "candidates"))
    assert list(images["status"]) == ["done", "done", "done", "refused", "gone"]


def test_an_image_that_was_cut_off_is_searched_again(archive, monkeypatch):
    run, _, folder = archive
    written, calls = module.write_json, []

    def full(path, record):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        written(path, record)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        with pytest.raises(OSError, match="No space left"):
            run()
    assert not (folder / "jobs/00000.json").exists() and len(list((folder / "images").iterdir())) == 1
    searched, search = [], module.search_image
    monkeypatch.setattr(
        module, "search_image", lambda path, **options: searched.append(path) or search(path, **options)
    )
    assert [item["status"] for item in run()][:3] == ["done", "done", "done"]
    assert not any(path.endswith("01/im.fits") for path in searched)


def test_an_image_that_cannot_be_read_does_not_end_the_job(archive, monkeypatch):
    run, _, _ = archive

    def denied(path):
        if str(path).endswith("copy.fits"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return digest(path)

    monkeypatch.setattr(module, "digest", denied)
    items = run()
    assert [item["status"] for item in items] == ["done", "done", "refused", "refused", "gone"]
    assert items[2]["reason"].endswith("copy.fits: cannot be read (Permission denied)")


def test_a_model_without_a_recipe_is_refused(archive, tmp_path):
    run, options, _ = archive
    model = write_tiny(tmp_path / "old.onnx", size=21, channels=("difference", "psf"))
    with pytest.raises(ConfigError, match="old.onnx: does not say how its cutouts were made"):
        run(options.model_copy(update={"model": str(model)}))


def test_an_archive_without_any_image_that_could_be_used(archive, tmp_path):
    _, options, folder = archive
    archive_files(images=[{"path": "no"}], folder=folder, record=folder / "jobs/1.json", options=options)
    nights_files(records=[folder / "jobs/1.json"], nights=folder / "nights.csv", images=folder / "images.csv")
    assert len(read_table(folder / "nights.csv")) == 0 and list(read_table(folder / "images.csv")["status"]) == ["gone"]
