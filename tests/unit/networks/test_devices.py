import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from otrain_core.errors import ConfigError
from otrain_core.networks import devices

pytestmark = pytest.mark.xdist_group("tensorflow")


@pytest.fixture
def backend(monkeypatch):
    from otrain_core.networks.architecture import keras

    return lambda name: monkeypatch.setattr(keras.backend, "backend", lambda: name)


def fake_torch(*names):
    cuda = SimpleNamespace(device_count=lambda: len(names), get_device_name=lambda number: names[number])
    return SimpleNamespace(
        cuda=cuda, use_deterministic_algorithms=lambda *_, **__: None, set_num_threads=lambda n: None
    )


def fake_jax(*names):
    found = [SimpleNamespace(device_kind=name, platform="gpu") for name in names]
    return SimpleNamespace(devices=lambda: found or [SimpleNamespace(device_kind="cpu", platform="cpu")])


@pytest.mark.parametrize(("name", "fake"), [("torch", fake_torch), ("jax", fake_jax)])
def test_other_back_ends_name_their_gpus(backend, monkeypatch, name, fake):
    backend(name)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setitem(sys.modules, name, fake("NVIDIA H100", "NVIDIA L4"))
    assert devices.prepare_device(require_gpu=True, threads=1) == "NVIDIA H100, NVIDIA L4"
    monkeypatch.setitem(sys.modules, name, fake())
    assert devices.prepare_device().startswith("CPU (")
    with pytest.raises(ConfigError, match="require_gpu is true, but no GPU is seen"):
        devices.prepare_device(require_gpu=True)


def test_a_back_end_that_cannot_train_is_refused(backend):
    backend("openvino")
    with pytest.raises(ConfigError, match="KERAS_BACKEND: 'openvino' cannot train"):
        devices.prepare_device()


def test_the_number_of_gpus(monkeypatch, caplog):
    monkeypatch.setattr(devices, "_strategy", lambda names: names)
    seen = ["GPU:0", "GPU:1", "GPU:2"]
    monkeypatch.setattr(devices, "seen_devices", lambda: seen)
    chosen = {gpus: devices.choose_replicas(gpus, batch_size=12) for gpus in (None, 1, 2, 4)}
    assert {gpus: replicas.n for gpus, replicas in chosen.items()} == {None: 3, 1: 1, 2: 2, 4: 3}
    assert chosen[2]._strategy == ("GPU:0", "GPU:1") and chosen[1]._strategy is None
    assert caplog.messages == ["gpus: 4 were asked for, tensorflow can train together on 3"]
    with pytest.raises(ConfigError, match="gpus: 4 were asked for, tensorflow can train together on 3"):
        devices.choose_replicas(4, batch_size=12, require_gpu=True)
    with pytest.raises(ConfigError, match="batch_size: 128 cutouts cannot be shared out evenly among 3 GPUs"):
        devices.choose_replicas(None, batch_size=128)
    seen.clear()
    assert devices.choose_replicas(None, batch_size=128).n == 1


@pytest.mark.parametrize("name", ["tensorflow", "jax"])
def test_two_devices_train_as_one(name, root, tmp_path):
    """The weights are those of one device where nothing depends on the share of the batch; else it learns and resumes."""
    environment = os.environ | {"KERAS_BACKEND": name, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-m", "tests.unit.distributed", str(tmp_path)]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["n_devices"] == 2
    assert found["moved"] > 0.1 and found["weights"] < 1e-5 and max(found["scores"]) < 1e-5
    assert found["losses"][0] == pytest.approx(found["losses"][1], rel=1e-5)
    assert found["n_train"] % 2 == 1 and found["loss"][-1] < found["loss"][0]
    assert found["resumed_at"] == 3 and found["same"] and found["same_weights"]
