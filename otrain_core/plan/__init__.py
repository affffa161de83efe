"""What a run is to make: configuration, sheets, pipelines, sweeps. Imports the ground floor only."""
