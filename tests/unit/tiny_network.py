"""Untrained networks for tests, by the options that matter to them."""

from __future__ import annotations

from collections.abc import Sequence

from otrain_core.plan.config import Experiment


def tiny_network(
    network: str = "otrain2",
    *,
    size: int,
    channels: Sequence[str] = ("difference",),
    normalise: str = "none",
    precision: str = "float32",
):
    """See `otrain_core.networks.architecture.build_network`."""
    from otrain_core.networks.architecture import build_network

    options = {"network": network, "inputs": list(channels), "normalise": normalise, "precision": precision}
    return build_network(Experiment.model_validate(options), size=size)
