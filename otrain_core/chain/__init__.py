"""The steps of one image, from the frame to cutouts, in one process."""
