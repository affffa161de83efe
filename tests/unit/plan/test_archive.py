"""Which images an archive has, and which job takes which."""

import pytest

from otrain_core.errors import ConfigError
from otrain_core.plan.archive import ArchiveImage, ArchiveOptions, archive_images, archive_jobs


@pytest.fixture
def files(tmp_path):
    for night in ("20240301", "20240302"):
        (tmp_path / night).mkdir()
        for k in (2, 1, 3):
            (tmp_path / night / f"im{k}.fits").write_bytes(b"")
    (tmp_path / "20240301/notes.txt").write_text("")
    return tmp_path


def test_a_pattern_gives_files_by_their_path(files):
    images = archive_images(ArchiveOptions(images=f"{files}/**/*.fits", references="ref.fits"))
    assert [image.path.removeprefix(f"{files}/") for image in images] == [
        f"{night}/im{k}.fits" for night in ("20240301", "20240302") for k in (1, 2, 3)
    ]


def test_a_sheet_names_references_of_its_own(tmp_path):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("path,reference,wcs\nb.fits,rb.fits,\na.fits,,a.wcs\n")
    images = archive_images(ArchiveOptions(images=str(sheet), references="ref.fits"))
    assert images == [ArchiveImage("b.fits", "rb.fits"), ArchiveImage("a.fits", None, "a.wcs")]
    with pytest.raises(ConfigError, match="archive.references: a.fits has no reference"):
        archive_images(ArchiveOptions(images=str(sheet)))


def test_jobs_take_neighbours_and_each_image_once(files):
    options = ArchiveOptions(images=f"{files}/*/*.fits", references="ref.fits", images_per_job=4)
    jobs = archive_jobs(options)
    assert {job: len(images) for job, images in jobs.items()} == {"00000": 4, "00001": 2}
    assert [image["path"] for images in jobs.values() for image in images] == [
        image.path for image in archive_images(options)
    ]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (None, "archive.images: give a file pattern or a sheet"),
        ("nothing/*.fits", "archive.images: nothing/\\*.fits: no such image"),
        ("{folder}/sheet.csv", "line 3: path: empty"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, images, sentence):
    (tmp_path / "sheet.csv").write_text("path,reference\na.fits,r.fits\n,r.fits\n")
    with pytest.raises(ConfigError, match=sentence):
        archive_images(ArchiveOptions(images=images and images.format(folder=tmp_path), references="r.fits"))
