"""What a job of fused images reads."""

import pytest

from otrain_core.plan.chain import Chain, chain_inputs, chain_record, chain_stamps
from otrain_core.plan.run import Run


def make(root, tmp_path, **run):
    sheet = tmp_path / "images.csv"
    rows = [f"real,i{number},i{number}.fits,ref.fits" for number in range(5)]
    sheet.write_text("\n".join(["telescope,image,path,reference", *rows]) + "\n")
    for name in ("i0", "i1", "i2", "ref"):
        (tmp_path / f"{name}.fits").write_bytes(b"x" * len(name))
    values = {
        "telescopes": {
            "real": {"source": "images", "known": "known.csv"},
            "sim": {
                "source": "simulated",
                "detector": {"pixel_scale": 1, "gain": 1, "read_noise": 5, "saturation": 60000},
                "sky": {"n_images": 3, "variables": 1},
            },
        },
        "images": str(sheet),
        "data_root": str(tmp_path),
        "pipelines": {
            "builtin": {},
            "one": {"detect": {"threshold": 6.0}, "telescopes": {"real": {"detect": {"threshold": 7.0}}}},
        },
        "run": {"cubes": ["real/one", "sim/one"], "fused": True, "images_per_job": 2, **run},
    }
    return Run.from_config(values, root=root)


def test_a_part_has_the_options_of_its_telescope_and_the_images_from_its_first(root, tmp_path):
    run = make(root, tmp_path)
    assert run.inputs.parts("real") == ["i0", "i2", "i4"] and run.inputs.part("real", "i4") == ["i4"]
    chain = Chain.model_validate(chain_record(run, "real", "one", "i2"))
    assert [(frame.image, frame.number) for frame in chain.frames] == [("i2", 2), ("i3", 3)]
    assert chain.frames[0].science == str(tmp_path / "i2.fits") and chain.frames[0].field == "reference ref.fits"
    assert chain.pipeline.detect.threshold == 7 and chain.makes_sky and chain.simulated is None
    assert chain.known == str(tmp_path / "known.csv") and chain.knows_objects and not chain.psf_catalogue
    simulated = Chain.model_validate(chain_record(run, "sim", "one", "sim0003"))
    assert simulated.pipeline.detect.threshold == 6 and simulated.frames[0].number == 2
    assert simulated.simulated.name == "sim" and simulated.known is None


def test_inputs_are_files_of_the_user_and_what_other_rules_make(root, tmp_path):
    run = make(root, tmp_path)
    assert chain_inputs(run, "real", "one", "i0") == [
        str(tmp_path / name) for name in ("i0.fits", "ref.fits", "i1.fits")
    ]
    assert chain_inputs(run, "sim", "one", "sim0001") == []
    sizes = [stamp and stamp[0] for stamp in chain_stamps(run, "real", "one", "i2")]
    assert sizes == [2, None, 3, None, None, 3, None]  # i2, its WCS, the reference, the same of i3, known.csv


def test_a_sky_of_two_pipelines_is_made_by_its_rules(root, tmp_path):
    run = make(root, tmp_path, cubes=["sim/one", "sim/builtin"])
    sky = "results/sim/sky/sim0003"
    names = ("science.fits", "reference.fits", "truth.csv", "known.csv")
    assert chain_inputs(run, "sim", "one", "sim0003") == [f"{sky}/{name}" for name in names]
    assert not chain_record(run, "sim", "one", "sim0003")["makes_sky"]


def test_an_unknown_first_image_is_an_error(root, tmp_path):
    with pytest.raises(KeyError):
        chain_record(make(root, tmp_path), "real", "one", "i9")
