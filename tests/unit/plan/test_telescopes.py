"""Telescopes: entries of files and of the configuration, with a sentence for what is wrong."""

import pytest

from otrain_core.errors import ConfigError
from otrain_core.plan.config import load_config
from otrain_core.plan.telescopes import Detector, SimulatedSky, is_service, read_telescopes

SIMULATED = """source: simulated
detector: {pixel_scale: 1.2, gain: {assumed: 1.5, because: a guess}, read_noise: 8, saturation: 60000}
sky: {n_images: 3, seeing: 3.5}
"""


def folder_of(tmp_path, **texts):
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def test_entries_of_a_folder(tmp_path):
    found = read_telescopes(folder_of(tmp_path, mine=SIMULATED, other="detector: {gain: 2}\n", bare=""))
    assert list(found) == ["bare", "mine", "other"]
    mine = found["mine"]
    assert mine.detector == Detector(pixel_scale=1.2, gain=1.5, read_noise=8.0, saturation=60000.0)
    assert mine.sky == SimulatedSky(n_images=3, seeing=3.5)
    assert mine.assumptions == {"detector.gain": "a guess"}
    assert found["other"].source == "images" and found["other"].detector.gain == 2.0
    assert found["bare"].detector == Detector() and found["bare"].sky is None


def test_the_configuration_changes_single_keys(tmp_path):
    changes = {"mine": {"sky": {"n_images": 9}, "detector": {"gain": 1.7}}, "new": {"detector": {"filter": "r"}}}
    found = read_telescopes(folder_of(tmp_path, mine=SIMULATED), changes)
    assert (found["mine"].sky.n_images, found["mine"].sky.seeing) == (9, 3.5)
    assert found["mine"].detector.gain == 1.7
    assert found["mine"].assumptions == {}  # the value that is given is assumed no more
    assert found["new"].detector.filter == "r"


def test_a_telescope_comes_back_from_its_values(tmp_path):
    mine = read_telescopes(folder_of(tmp_path, mine=SIMULATED))["mine"]
    assert type(mine).model_validate(mine.model_dump()) == mine


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("detector: {pixle_scale: 1}", "t.yaml: detector.pixle_scale: unknown key; did you mean 'pixel_scale'"),
        ("detector: {pixel_scale: wide}", "t.yaml: detector.pixel_scale: .*number.*'wide'"),
        ("detector: {gain: 0}", "detector.gain: .*greater than 0"),
        ("detector: {gain: .nan}", "detector.gain: .*finite"),
        ("detector: {saturation: .inf}", "detector.saturation: .*finite"),
        ("detector: {header: {gian: EGAIN}}", "detector.header.gian"),
        ("detector: {wins: sheet}", "detector.wins: .*'header' or 'config'"),
        ("detector: {gain: {assumed: 2}}", "gain: write an assumed value as {assumed: VALUE, because: REASON}"),
        ("detector: {gain: {assumed: 2, because: ''}}", "gain: write an assumed value as"),
        ("source: simulated\nsky: {}", "t.yaml: detector.pixel_scale: needed for a simulated telescope"),
        ("source: simulated", "t.yaml: sky: this section is needed for a telescope with source: simulated"),
        ("sky: {}", "t.yaml: sky: this section is only for source: simulated, but the source is images"),
        ("source: simulated\nsky: {n_images: 100000000}", "sky.n_images: .*less than or equal to 9999"),
        (
            "source: simulated\nknown: vsx\nsky: {}\n"
            "detector: {pixel_scale: 1, gain: 1, read_noise: 1, saturation: 60000}",
            "catalogue and known: not for a simulated telescope",
        ),
        ("source: folders", "folder: needed for a telescope with source: folders"),
        ("catalogue: vsx", "catalogue: 'vsx' is not possible; give a CSV file, or one of gaia, panstarrs"),
        ("known: gaia", "known: 'gaia' is not possible; give a CSV file, or one of vsx, skybot"),
        ("known: vsx+gaia", "known: 'gaia' is not possible"),
        ("known: vsx:500", "known: only skybot takes an observatory code"),
        ("catalogue: a.csv+b.csv", "catalogue: must be one file or service, not 'a.csv.b.csv'"),
        ("name: u", "name: 'u' differs from the name of the file or entry, 't'"),
        ("- gain", "t.yaml: must consist of keys and values, but is a list"),
        ("detector: {gain: 1", "t.yaml: not YAML: "),
    ],
)
def test_bad_entries(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_telescopes(folder_of(tmp_path, t=text))


def test_names_of_folders_of_results_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="'logs' is reserved for a folder of the results"):
        read_telescopes(tmp_path, {"logs": {}})


def test_a_sheet_of_the_old_kind_is_told(tmp_path):
    sheet = tmp_path / "telescopes.csv"
    sheet.write_text("telescope,source\n")
    with pytest.raises(
        ConfigError, match="config: telescopes: telescopes are YAML entries now.*found 'telescopes.csv'"
    ):
        load_config({"telescopes": "telescopes.csv"})
    with pytest.raises(ConfigError, match="telescope_folder: .*telescopes are YAML entries now"):
        read_telescopes(sheet)
    with pytest.raises(ConfigError, match="telescope_folder: .*no such folder"):
        read_telescopes(tmp_path / "nowhere")


def test_sources_of_both_kinds(tmp_path):
    mine = read_telescopes(folder_of(tmp_path, t="catalogue: gaia\nknown: skybot:950 + vsx+mine.csv\n"))["t"]
    assert mine.sources("catalogue") == ["gaia"]
    assert mine.sources("known") == ["skybot:950", "vsx", "mine.csv"]
    assert [is_service(name) for name in mine.sources("known")] == [True, True, False]
