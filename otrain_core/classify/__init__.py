"""Use of a trained model, without TensorFlow."""
