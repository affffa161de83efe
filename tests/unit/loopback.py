"""A web server on 127.0.0.1 that gives recorded answers, and failures on request."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

RECORDED = Path(__file__).parent / "recorded"


def recorded(name):
    return (RECORDED / name).read_bytes()


@dataclass
class Loopback:
    """`answers` are given one after the other, the last one again and again.

    An answer is bytes (status 200), a number (that status, with a page in HTML), a pair of
    seconds to wait and bytes, or a function of the query (dict) that gives bytes.
    """

    url: str = ""
    answers: list = field(default_factory=list)
    requests: list = field(default_factory=list)

    def next(self):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def loopback():
    state = Loopback()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            parts = urlsplit(self.path)
            state.requests.append((parts.path, body or parts.query))
            answer = state.next()
            if isinstance(answer, tuple):
                time.sleep(answer[0])
                answer = answer[1]
            if callable(answer):
                answer = answer({key: value[0] for key, value in parse_qs(parts.query).items()})
            if isinstance(answer, int):
                return self.send(answer, b"<html><body>the service is out of order</body></html>")
            return self.send(200, answer)

        do_GET = do_POST

        def send(self, status, content):
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client did not wait

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
