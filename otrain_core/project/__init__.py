"""From a folder of FITS files to a project: what is there, what is assumed, what is missing, and what a run costs."""
