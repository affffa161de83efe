"""Classification with a trained model, without TensorFlow: `Classifier` and the modules that it needs."""

from otrain_core.classify.classifier import Classifier

__all__ = ["Classifier"]
