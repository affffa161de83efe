"""The only wing that imports Keras: architectures, training, prediction, maps, export."""
