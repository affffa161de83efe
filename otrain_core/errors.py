"""The errors that a user can meet, each one sentence that names the file and the key."""

from __future__ import annotations

import errno


class OtrainError(Exception):
    """A problem with what the user gave; shown as one sentence, without a traceback."""


class ConfigError(OtrainError):
    """A key of the configuration or a column of a sheet is wrong."""


class FileError(OtrainError, ValueError):
    """A table or record cannot be read, or a file not be written where it should."""


class MissingProgramError(OtrainError):
    """An external program that the chosen pipeline needs is not installed."""


class ClusterError(OtrainError):
    """Slurm cannot be asked, or does not fit the profile; or an earlier run is not over."""


class CubeError(OtrainError):
    """A cube, a split or a set of labels cannot be used."""


class ImageError(OtrainError):
    """One image cannot be used; the others are not affected.

    Parameters
    ----------
    image : str
        Name of the image in the sheet.
    key : str
        What is wrong: a header key, a column of the sheet or a property of the image.
    message : str
        What was found and what is needed.
    """

    def __init__(self, image: str, key: str, message: str):
        self.image = image
        self.key = key
        self.message = message
        super().__init__(f"image {image}: {key}: {message}")

    def __reduce__(self):
        return type(self), (self.image, self.key, self.message)


class UpstreamFailed(ImageError):
    """An earlier step of the same image failed and the image was left out."""


def first_line(error: BaseException) -> str:
    """The first line of the text of an error, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


_FULL = ("Not enough space on disk", "No space left on device")  # of astropy, and of programs


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, also behind one that took its place (of the system, SQLite, astropy)."""
    seen = []
    while error is not None and error not in seen:  # errors raised from one another may form a ring
        seen.append(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(error) for words in _FULL):
            return True
        if getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):
            return True
        # Not the cause alone: sentences that take the place of an error are raised `from None`, and libraries raise anew.
        error = error.__cause__ or error.__context__
    return False
