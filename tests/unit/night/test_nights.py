"""Tables of an archive, night by night."""

from otrain_core.io import read_table, write_json
from otrain_core.night.nights import nights_files


def test_copies_count_once_and_bad_images_are_named(tmp_path):
    done = {
        "status": "done",
        "night": "2024-03-01",
        "n": 5,
        "real": 2,
        "undecided": 1,
        "seeing_px": 3.0,
        "limit_mag": 20.0,
    }
    rows = [done | {"path": "a", "digest": "1"}, done | {"path": "copy", "digest": "1"}]
    rows += [done | {"path": "b", "digest": "2", "n": 3, "seeing_px": 4.0}]
    rows += [{"path": "c", "digest": "3", "status": "refused", "reason": "no stars"}]
    write_json(tmp_path / "job.json", {"images": rows})
    nights_files(records=[tmp_path / "job.json"], nights=tmp_path / "nights.csv", images=tmp_path / "images.csv")
    night, images = read_table(tmp_path / "nights.csv"), read_table(tmp_path / "images.csv")
    assert night[["images", "candidates", "real", "undecided", "seeing_px"]].iloc[0].tolist() == [2, 8, 4, 2, 3.5]
    assert images["path"].tolist() == ["a", "copy", "b", "c"] and images["reason"].iloc[3] == "no stars"
