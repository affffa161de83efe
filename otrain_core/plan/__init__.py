"""The plan of a run: configuration, sheets, pipelines and sweeps. Imports only the modules at the top of the package."""
