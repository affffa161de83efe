"""Candidates: detection, labels and cutouts. Imports the packages images, stars and sky."""
