"""Search tonight's images: from a science image to scored candidates, in one process."""
