"""From scores to numbers, without TensorFlow. Imports the ground floor, plan and cubes."""
