"""Point sources and the PSF. Imports the ground floor, plan and images."""
