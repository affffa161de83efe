"""Tests of registered models: found by name, promoted, rolled back, and chosen by imports."""

import hashlib

import pytest

from otrain_core.errors import OtrainError
from otrain_core.plan.config import GateOptions
from otrain_core.registry import models
from otrain_core.registry.models import name_champion
from otrain_core.registry.records import records_digest
from otrain_core.registry.store import open_store

GATE = GateOptions()
# A test set that is large enough, as tags.
TESTED = {"n_images": "9", "n_true": "90", "n_false": "90", "mcc_low": "0.8"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three versions of one telescope; the champion is version 2."""
    root = tmp_path_factory.mktemp("results")
    client, _ = open_store(root / "mlflow.db", root / "mlartifacts")
    client.create_registered_model("otrain-tca")
    for seed in (1, 2, 3):
        folder = root / "tca" / "builtin" / "otrain2" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "model.keras").write_bytes(bytes([seed]))
        (folder / "model.onnx").write_bytes(bytes([seed]))
        tags = {"telescope": "tca", "pipeline": "builtin", "experiment": "otrain2", "seed": str(seed), "mcc": "0.9"}
        tags |= TESTED
        tags |= {
            "digest": records_digest(folder),
            "protocol": "by-image",
            "fp_share": "0.01",
            "mcc_validation": f"0.{seed}",
        }
        client.create_model_version("otrain-tca", source=str(folder), tags=tags)
    client.set_registered_model_alias("otrain-tca", "champion", "2")
    return root


def test_found_by_name(results):
    folder = results / "tca/builtin/otrain2"
    assert models.find_model("tca", results=results) == folder / "seed2/model.onnx"
    assert models.find_model("otrain-tca@3", results=results) == folder / "seed3/model.onnx"
    assert models.find_model(str(folder / "seed1"), results=results) == folder / "seed1/model.onnx"
    assert [row["alias"] for row in models.list_models(results=results)] == ["", "champion", ""]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jast", "otrain-jast: no such registered model; registered are: otrain-tca"),
        ("tca@9", "no version or alias '9'; its aliases are: champion"),
        ("tca@previous", "no version or alias 'previous'"),
        ("nowhere/model.onnx", "no such file"),
        ("../../nowhere", "no such file"),
    ],
)
def test_what_is_not_there_is_told(results, name, message):
    with pytest.raises(OtrainError, match=message):
        models.find_model(name, results=results)


def test_promoted_and_rolled_back(results):
    client, _ = open_store(results / "mlflow.db", results / "mlartifacts")
    done = models.promote("tca", 1, results=results)
    assert done == {"model": "otrain-tca", "version": 1, "previous": 2, "gate": ""}
    assert models.find_model("tca", results=results).parent.name == "seed1"
    assert models.find_model("tca@previous", results=results).parent.name == "seed2"
    assert name_champion(client, "tca", gate=GATE)["version"] == 1  # chosen by hand: it stays
    assert models.roll_back("tca", results=results)["version"] == 2
    assert models.roll_back("tca", results=results)["version"] == 1
    models.automatic("tca", results=results)
    assert name_champion(client, "tca", gate=GATE)["version"] == 3  # the best on validation
    models.promote("tca", 2, results=results)
    with pytest.raises(OtrainError, match="no version or alias '7'"):
        models.promote("tca", 7, results=results)


def test_a_training_done_anew_is_not_passed_off(results):
    path = results / "tca/builtin/otrain2/seed3/model.keras"
    path.write_bytes(b"other")
    with pytest.raises(OtrainError, match="has been repeated since"):
        models.find_model("tca@3", results=results)
    path.with_name("model.onnx").unlink()
    with pytest.raises(OtrainError, match="otrain models export"):
        models.find_model("tca@3", results=results)


def test_no_store_is_made(tmp_path):
    with pytest.raises(OtrainError, match="no such store of models"):
        models.list_models(results=tmp_path)
    assert not list(tmp_path.iterdir())


class Client:
    """A registry without a champion, in which new versions may appear during the choice."""

    def __init__(self, *answers):
        self.answers, self.aliases, self.tags = list(answers), {}, {}

    def search_model_versions(self, _):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def get_registered_model(self, _):
        return self

    def set_model_version_tag(self, _name, version, key, value):
        next(item for item in self.answers[-1] if item.version == version).tags[key] = value

    def set_registered_model_alias(self, _name, alias, version):
        self.aliases[alias] = version

    def set_registered_model_tag(self, _name, key, value):
        self.tags[key] = value


class Version:
    def __init__(self, version, **tags):
        self.version, self.run_id = version, ""
        self.tags = {"protocol": "by-image", **TESTED, "mcc_low": tags.get("mcc", "nan")} | tags


def test_gate_bounds_are_as_in_the_paper():
    """MCC must exceed its limit; false positives may equal theirs."""
    versions = [
        Version("1", mcc="0.7", fp_share="0.01"),
        Version("2", mcc="0.8", fp_share="0.05"),
        Version("3", mcc="0.9", fp_share="0.0501"),
        Version("4", mcc="0.95", fp_share="0.0", superseded="5"),
        Version("5", mcc="0.99", fp_share="0.0", protocol="random"),
        Version("6", mcc="nan", fp_share="nan"),
    ]
    client = Client(versions)
    assert name_champion(client, "tiny", gate=GATE)["version"] == 2
    assert client.aliases == {"champion": "2"} and "MCC 0.800" in client.tags["champion"]
    gates = [version.tags["gate"] for version in versions]
    assert [gate == "passed" for gate in gates] == [False, True, False, True, False, False]
    assert gates[0] == "failed: MCC 0.700 is not above 0.7"
    assert gates[2].startswith("failed: false positives are 0.050 of the test set")


def test_a_collapsed_training_is_no_champion_and_it_is_said_why():
    words = "the training collapsed: it calls every cutout False"
    versions = [
        Version("1", mcc="0.9", mcc_validation="0.9", fp_share="0.0", collapsed=words),
        Version("2", mcc="0.8", fp_share="0.0"),
    ]
    assert name_champion(Client(versions), "tiny", gate=GATE)["version"] == 2
    assert versions[0].tags["gate"] == f"failed: {words}"


def test_a_better_version_that_comes_meanwhile_is_the_champion():
    """Two imports at once: the first repeats its choice."""
    first = Version("1", mcc="0.9", mcc_validation="0.8", fp_share="0.01")
    second = Version("2", mcc="0.9", mcc_validation="0.9", fp_share="0.01")
    client = Client([first], [first, second])
    assert name_champion(client, "tiny", gate=GATE)["version"] == 2
    assert client.aliases == {"champion": "2"}


def test_versions_that_never_stop_coming_end_the_choice():
    first, second = (Version(k, mcc="0.9", mcc_validation="0.8", fp_share="0.01") for k in "12")
    client = Client(*[[first], [first, second]] * 100)
    assert name_champion(client, "tiny", gate=GATE)["version"] == 1
    assert len(client.answers) > 100


def test_validation_chooses_and_test_is_only_the_gate():
    versions = [
        Version("1", mcc="0.95", mcc_validation="0.90", fp_share="0.01"),
        Version("2", mcc="0.90", mcc_validation="0.93", fp_share="0.01"),
        Version("3", mcc="0.60", mcc_validation="0.99", fp_share="0.01"),
        Version("4", mcc="0.97", fp_share="0.01"),  # of an import that did not know it
    ]
    champion = name_champion(Client(versions), "tiny", gate=GATE)
    assert (champion["version"], champion["mcc"], champion["mcc_validation"]) == (2, 0.9, 0.93)
    assert name_champion(Client(versions[3:]), "tiny", gate=GATE)["version"] == 4


@pytest.fixture
def served(place, tmp_path, monkeypatch):
    """Function that registers a model with any files and tags, as everybody with write access to a server can."""
    client, _ = open_store(**place)
    client.create_registered_model("otrain-tca")
    monkeypatch.setattr(models, "server_address", lambda: "http://server:5000")
    monkeypatch.setattr(models, "read_server", lambda address: client)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home/cache"))

    def register(tag, **files):
        source = tmp_path / "artifacts"
        for name, content in files.items():
            path = source / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        version = client.create_model_version("otrain-tca", source=source.as_uri(), tags={"onnx": tag} if tag else {})
        return f"tca@{version.version}"

    return register


MODEL = b"an exported network"
DIGEST = hashlib.sha256(MODEL).hexdigest()


def kept(tmp_path):
    """All files in the home directory of the user."""
    return sorted(str(path.relative_to(tmp_path / "home")) for path in (tmp_path / "home").rglob("*") if path.is_file())


def test_a_model_comes_from_the_server_once(served, tmp_path, monkeypatch):
    name = served(DIGEST, model_onnx=MODEL, MLmodel=b"x")
    found = models.find_model(name)
    assert found == tmp_path / "home/cache/otrain/models" / DIGEST / "model.onnx" and found.read_bytes() == MODEL
    assert kept(tmp_path) == [f"cache/otrain/models/{DIGEST}/model.onnx"]
    monkeypatch.setattr(models, "_download", lambda *_args, **_kwargs: pytest.fail("downloaded again"))
    assert models.find_model(name) == found


@pytest.mark.parametrize(
    "tag", ["../../../escaped", "{tmp}/escaped", DIGEST.upper(), DIGEST[:-1], DIGEST + "\n", "a/" + DIGEST]
)
def test_a_tag_that_is_no_digest_is_never_a_path(served, tmp_path, tag):
    name = served(tag.format(tmp=tmp_path), model_onnx=MODEL)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OtrainError, match="its tag onnx on http://server:5000 is not a SHA-256 digest"):
        models.find_model(name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model_onnx": b"other"}, "the model.onnx on .* is not the one that was imported"),
        ({"model_onnx__a_txt": b"1", "model_onnx__b_txt": b"2"}, "has no file model.onnx of at most 1024 MB"),
        ({"MLmodel": b"x"}, "has no file model.onnx of at most 1024 MB"),
    ],
)
def test_what_a_server_sends_is_checked_before_it_is_kept(served, tmp_path, files, message):
    with pytest.raises(OtrainError, match=message):
        models.find_model(served(DIGEST, **files))
    assert kept(tmp_path) == []
    assert not list((tmp_path / "home/cache/otrain/models").iterdir())


def test_a_file_larger_than_any_model_is_not_downloaded(served, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MOST_BYTES", len(MODEL) - 1)
    with pytest.raises(OtrainError, match="has no file model.onnx of at most"):
        models.find_model(served(DIGEST, model_onnx=MODEL))


def test_a_store_of_somebody_else_names_no_folder_outside(place, tmp_path, monkeypatch):
    client, _ = open_store(**place)
    client.create_registered_model("otrain-tca")
    tags = {"telescope": "..", "pipeline": "..", "experiment": "/etc", "seed": "1"}
    client.create_model_version("otrain-tca", source="file:///nowhere", tags=tags)
    with pytest.raises(OtrainError, match="do not name a training"):
        models.find_model("tca@1", results=tmp_path)
