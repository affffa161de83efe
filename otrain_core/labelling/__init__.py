"""The labelling page and its answers."""
