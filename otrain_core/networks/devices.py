"""Devices for the training of networks: CPU or GPU.

``python -m otrain_core.networks.devices`` lists the GPUs that a training on this machine can use.
"""

from __future__ import annotations

import logging
import numbers
import os
from collections.abc import Iterator
from contextlib import contextmanager

from otrain_core.errors import ConfigError, OtrainError

log = logging.getLogger("otrain")


def prepare_device(*, require_gpu: bool = False, threads: int | None = None, deterministic: bool = True) -> str:
    """Make the results of the back end reproducible, and name its device.

    Parameters
    ----------
    require_gpu : bool
    threads : int, optional
        CPU threads (default: chosen by the back end; JAX has no such setting).
    deterministic : bool
        Make the operations of TensorFlow deterministic. They cannot be compiled with XLA then.

    Returns
    -------
    str
        Names of the available GPUs, or CPU with its number of cores.

    Raises
    ------
    ConfigError
        A GPU is required, but none is available to the back end; or the back end cannot be used for training.
    """
    from otrain_core.networks.architecture import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        gpus = _prepare_tensorflow(threads, deterministic)
    elif backend == "jax":
        flag = "--xla_gpu_deterministic_ops=true"  # read when JAX starts its devices
        if flag not in os.environ.get("XLA_FLAGS", ""):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        import jax

        gpus = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    elif backend == "torch":
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        if threads:
            torch.set_num_threads(threads)
        gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    else:
        raise ConfigError(f"KERAS_BACKEND: {backend!r} cannot be used for training; use tensorflow, jax or torch")
    if require_gpu and not gpus:
        raise ConfigError(
            "require_gpu: true, but no GPU is available; check the driver, CUDA_VISIBLE_DEVICES and the extra `[gpu]`"
        )
    return ", ".join(gpus) or f"CPU ({len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1} cores)"


def _prepare_tensorflow(threads: int | None, deterministic: bool) -> list[str]:
    import tensorflow as tf

    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if threads:
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            log.warning("threads: cannot be changed, because TensorFlow has already started")
    return [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]


@contextmanager
def memory_told(what: str) -> Iterator[None]:
    """Convert out-of-memory errors to one sentence; `what` needs the memory, and says what to change.

    Raises
    ------
    OtrainError
        Instead of the errors of Python, TensorFlow, JAX and PyTorch.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        signs = ("RESOURCE_EXHAUSTED", "out of memory", "OOM when", "failed to allocate memory")
        if (
            isinstance(error, MemoryError)
            or type(error).__name__ == "ResourceExhaustedError"
            or any(words.lower() in text.lower() for words in signs)
        ):
            raise OtrainError(f"there is not enough memory for {what}") from error
        raise


def check_seed(seed: int) -> None:
    """Refuse a seed that the random number generators do not accept.

    Raises
    ------
    ConfigError
        The seed is not a whole number from 0 to 2**32 - 1.
    """
    if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed: must be a whole number from 0 to {2**32 - 1}, not {seed}")


if __name__ == "__main__":
    from otrain_core.networks.architecture import keras

    try:
        print(f"GPUs for {keras.backend.backend()}: {prepare_device(require_gpu=True)}")
    except ConfigError as error:
        raise SystemExit(str(error)) from None
