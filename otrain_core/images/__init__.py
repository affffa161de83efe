"""From a frame to a difference image. Imports the ground floor and plan."""
