"""The verbs ``label serve`` and ``label sheet`` of the command ``otrain``."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from otrain_core.errors import OtrainError

TOKEN = "OTRAIN_LABEL_TOKEN"  # environment variable with a user's own token, which the process list does not show


def label_serve(arguments: Namespace) -> tuple[int, Any, str]:
    """Serve the labelling page until Ctrl-C."""
    from otrain_core.labelling.page import Labelling, create_app, is_loopback
    from otrain_core.labelling.serve import make_server
    from otrain_core.labelling.sources import open_cubes, open_new
    from otrain_core.labelling.store import LabelStore

    if arguments.model:
        sources = open_new(arguments.cubes, arguments.model, results=arguments.results, telescope=arguments.telescope)
    else:
        experiments = arguments.experiments.split(",") if arguments.experiments else []
        sources = open_cubes(arguments.results, arguments.cubes, experiments=experiments)
    store = LabelStore(arguments.database)
    work = Labelling(sources, store, most=arguments.most)
    token = None
    if arguments.token or not is_loopback(arguments.host):
        token = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    try:
        server = make_server(create_app(work, token=token), host=arguments.host, port=arguments.port)
    except (OSError, ValueError) as error:
        raise OtrainError(f"--host {arguments.host} --port {arguments.port}: {error}") from None
    # If the name of the host has several addresses, the server has a socket for each of them.
    port = server.effective_port if hasattr(server, "effective_port") else server.effective_listen[0][1]
    name = socket.gethostname() if arguments.host in ("0.0.0.0", "::") else arguments.host
    name = f"[{name}]" if ":" in name else name
    address = f"http://{name}:{port}/" + (f"?token={token}" if token else "")
    record = {"url": address, "candidates": len(work.why), "database": str(store.path)}
    if arguments.json:
        print(json.dumps(record), flush=True)
    else:
        print(f"{len(work.why)} candidates worth a look; answers are stored in {store.path}\n{address}", flush=True)
        if not arguments.quiet:
            print(_advice(arguments, token), file=sys.stderr, flush=True)
    server.run()  # returns on Ctrl-C
    return 0, None, ""


def _advice(arguments: Namespace, token: str | None) -> str:
    usage = "Stop the server with Ctrl-C, and write the label sheet with: otrain label sheet -o labels.csv"
    if token and arguments.host not in ("127.0.0.1", "localhost", "::1"):
        return f"Anyone with this address can answer under any name, and the connection is not encrypted.\n{usage}"
    return usage


def label_sheet(arguments: Namespace) -> tuple[int, Any, str]:
    """Write the label sheet."""
    from otrain_core.io import atomic
    from otrain_core.labelling.store import LabelStore

    if not Path(arguments.database).is_file():
        raise OtrainError(f"{arguments.database}: no such file; it is made by `otrain label serve`")
    store = LabelStore(arguments.database)
    rows = store.sheet_rows()
    if not arguments.output:
        if not arguments.json:
            store.write_sheet(sys.stdout)
        return 0, {"rows": rows}, ""
    with atomic(arguments.output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        n = store.write_sheet(file)
    people = len({row["who"] for row in rows})
    candidates = len({(row["telescope"], row["pipeline"], row["candid"], row["x"], row["y"]) for row in rows})
    record = {"sheet": arguments.output, "answers": n, "candidates": candidates, "people": people}
    return 0, record, f"{arguments.output}: {n} answers by {people} people on {candidates} candidates"
