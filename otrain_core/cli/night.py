"""The verb ``night`` of the command ``otrain``: search the images of a folder as they arrive."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

from otrain_core.cli.classify import load_classifier
from otrain_core.cli.search import choose_catalogues, choose_hand_on, choose_recipe
from otrain_core.night.night import Night
from otrain_core.night.references import References


def night(arguments: Namespace) -> tuple[int, Any, str]:
    """Search the images of a folder until the process is stopped, or once.

    Returns
    -------
    tuple
        Exit status (1 if an image was refused), record for ``--json``, and text.
    """
    classifier = load_classifier(arguments)
    work = Night(
        folder=Path(arguments.folder),
        output=Path(arguments.output),
        references=References(arguments.references),
        classifier=classifier,
        recipe=choose_recipe(arguments, classifier.about),
        catalogues=choose_catalogues(arguments),
        hand_on=choose_hand_on(arguments, classifier.about),
        longitude=arguments.longitude,
    )
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGTERM, signal.SIGINT):  # stop after the current image
            signal.signal(name, lambda *_: stop.set())
    counts = work.run(once=arguments.once, stop=stop, tell=_teller(arguments))
    text = f"{arguments.output}/index.html: {counts['done']} images done, {counts['refused']} refused"
    if counts["left_out"]:
        text += f"; {counts['left_out']} dark, bias or flat frames (IMAGETYP) were left out and are listed on the page"
    return int(bool(counts["refused"])), {"output": arguments.output, **counts}, text


def _teller(arguments: Namespace):
    def tell(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr, flush=True)

    return tell
