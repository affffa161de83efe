"""The command ``otrain``. Its verbs call the same functions as the workflow."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

from otrain_core.cli.parser import build_parser
from otrain_core.errors import OtrainError

# Packages of each extra of the installation. classify, search and night do not need an extra.
EXTRAS = {
    "train": ("keras", "tensorflow", "tf2onnx", "onnx", "sklearn", "matplotlib"),
    "workflow": (
        "astroquery",
        "galsim",
        "mlflow",
        "openpyxl",
        "photutils",
        "psutil",
        "pyarrow",
        "rich",
        "snakemake",
        "stdpipe",
    ),
    "serve": ("flask", "waitress"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments (default: those of the process).

    Returns
    -------
    int
        Exit status.
    """
    for stream in (sys.stdout, sys.stderr):  # file names may have bytes that are not UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
    try:
        module, function = arguments.function.split(":")
        status, record, text = getattr(importlib.import_module(f"otrain_core.cli.{module}"), function)(arguments)
        from otrain_core.io import plain_values

        answer = json.dumps(plain_values(record), indent=1) if arguments.json and record is not None else text
        if answer:
            print(answer, flush=True)
        return status
    except OtrainError as error:
        return _refuse(arguments, str(error))
    except ModuleNotFoundError as error:
        return _refuse(arguments, _missing_package(error))
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        reason = "is a file, not a folder" if isinstance(error, FileExistsError) else error.strerror or error
        return _refuse(arguments, f"{error.filename or ''}: {reason}".lstrip(": "))
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        return _refuse(arguments, "not enough memory for this input")
    except Exception as error:
        return _refuse(arguments, f"{_unexpected(error)}; please report it")


def _missing_package(error: ModuleNotFoundError) -> str:
    """A sentence on a package that is not installed, with the extra that installs it."""
    package = (error.name or "").split(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if extra is None:
        return f"{_unexpected(error)}; please report it"
    return f"the package {package} is needed, but not installed; install it with: pip install 'otrain[{extra}]'"


def _unexpected(error: Exception) -> str:
    """A sentence on an unexpected error; its traceback is written to a file."""
    folder = tempfile.mkdtemp(prefix="otrain-")
    path = os.path.join(folder, "error.log")
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        traceback.print_exception(error, file=file)
    text = " ".join(str(error).split())[:200]
    return f"unexpected {type(error).__name__}{f' ({text})' if text else ''}; see {path} for details"


def _refuse(arguments: argparse.Namespace, message: str) -> int:
    if arguments.json:
        print(json.dumps({"error": message}))
    print(f"otrain {arguments.verb}: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
