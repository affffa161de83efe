"""Networks in Keras: architectures, training, prediction, Grad-CAM maps, export. No other part of the package imports Keras."""
