"""From a folder of FITS files to a project: what was found, assumed and missing, and what a run will cost."""
