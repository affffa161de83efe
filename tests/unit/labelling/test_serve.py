"""The server of the labelling page: connections that were opened and left keep nobody out."""

import contextlib
import http.client
import socket
import threading
import time

import pytest
from waitress import wasyncore

from otrain_core.labelling import serve


class Channel:
    """A connection: from an address, idle since a time, with or without a request that is being answered."""

    def __init__(self, address, last_activity, *, requests=(), waiting=0):
        self.addr, self.last_activity, self.requests = (address, 1), last_activity, list(requests)
        self.total_outbufs_len, self.closed = waiting, False

    def handle_close(self):
        self.closed = True


def test_the_connection_that_was_idle_longest_makes_room(monkeypatch):
    monkeypatch.setattr(serve, "MOST_FROM_ONE", 4)
    mine = [
        Channel("a", 1, requests=["at work"]),
        Channel("a", 2, waiting=7),
        Channel("a", 3),
        Channel("a", 4),
    ]
    other = Channel("b", 0)
    serve.make_room([*mine[:3], other], ("a", 9))
    assert not any(channel.closed for channel in (*mine, other))
    serve.make_room([*mine, other], ("a", 9))
    assert [channel.closed for channel in (*mine, other)] == [False, False, True, False, False]
    serve.make_room(mine[:2] * 2, ("a", 9))  # all are answered: none is closed
    assert [channel.closed for channel in mine[:2]] == [False, False]


@contextlib.contextmanager
def serving(app):
    server = serve.make_server(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield int(server.effective_port)
    finally:
        server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map))  # in its own thread, which then ends
        thread.join(30)
        server.task_dispatcher.shutdown()
        assert not thread.is_alive()


def hello(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def ask(port, **options):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(options.pop("method", "GET"), "/", **options)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_page_is_reached_past_half_open_connections():
    """150 requests that never end, as many as a scanner or a broken proxy leaves."""
    with serving(hello) as port, contextlib.ExitStack() as stack:
        for _ in range(150):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            half.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Never: ")
        started = time.monotonic()
        assert ask(port) == (200, b"hello")
        assert time.monotonic() - started < 5


def test_a_request_is_no_larger_than_an_answer_needs():
    with serving(hello) as port:
        status, _ = ask(port, method="POST", body=b"x" * (serve.MOST_BYTES + 1))
        assert status == 413


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(OSError):
        serve.make_server(hello, host="192.0.2.1", port=0)
