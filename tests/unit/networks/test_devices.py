import sys
from types import SimpleNamespace

import pytest

from otrain_core.errors import ConfigError, OtrainError
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
    with pytest.raises(ConfigError, match="require_gpu: true, but no GPU is available"):
        devices.prepare_device(require_gpu=True)


def test_a_back_end_that_cannot_train_is_refused(backend):
    backend("openvino")
    with pytest.raises(ConfigError, match="KERAS_BACKEND: 'openvino' cannot be used for training"):
        devices.prepare_device()


def test_other_errors_are_not_taken_for_lack_of_memory():
    with pytest.raises(ValueError, match="a wrong shape"), devices.memory_told("a batch"):
        raise ValueError("a wrong shape")
    for error in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes")):
        with pytest.raises(OtrainError, match="there is not enough memory for a batch"), devices.memory_told("a batch"):
            raise error
