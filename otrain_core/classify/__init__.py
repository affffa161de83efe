"""Use of a trained model, without TensorFlow: `Classifier` and what it needs."""

from otrain_core.classify.classifier import Classifier

__all__ = ["Classifier"]
