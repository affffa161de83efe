"""Detections, their labels and their cutouts. Imports the wings of images, stars and sky."""
