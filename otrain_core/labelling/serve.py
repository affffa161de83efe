"""The web server of the labelling page: it stays reachable, whatever connections are opened to it and left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

THREADS = 8  # requests that are answered at a time
MOST = 400  # connections in all
MOST_FROM_ONE = 40  # connections from one address; a browser keeps about six
TIMEOUT = 30  # seconds after which a connection without a request, or with half of one, is closed
MOST_BYTES = 64 * 1024  # of a request, and of its headers


def make_server(app: Callable, *, host: str, port: int) -> Any:
    """A server that listens; `run` serves until Ctrl-C.

    Beyond `MOST_FROM_ONE` connections of one address, the one that has been idle longest is closed for a new one:
    connections that were opened and left, on purpose or by a browser, keep nobody out. It is closed and not the new
    one refused, because all users of a tunnel or a proxy come from one address.

    Parameters
    ----------
    app : WSGI application
    host : str
        Address or name; a name may stand for several addresses, each with a socket of its own.
    port : int
        0: any that is free.

    Returns
    -------
    waitress server

    Raises
    ------
    OSError, ValueError
        The address cannot be used.
    """
    from waitress import create_server
    from waitress.channel import HTTPChannel
    from waitress.server import BaseWSGIServer

    def channel(server: Any, socket: Any, address: Any, *arguments: Any, **named: Any) -> HTTPChannel:
        make_room(server.active_channels.values(), address)
        return HTTPChannel(server, socket, address, *arguments, **named)

    sockets: dict[int, Any] = {}
    server = create_server(
        app,
        map=sockets,
        host=host,
        port=port,
        threads=THREADS,
        connection_limit=MOST,
        channel_timeout=TIMEOUT,
        cleanup_interval=TIMEOUT // 3,
        max_request_body_size=MOST_BYTES,
        max_request_header_size=MOST_BYTES,
        asyncore_use_poll=True,  # `select` ends at 1024 files
    )
    for item in sockets.values():
        if isinstance(item, BaseWSGIServer):
            item.channel_class = channel
    return server


def make_room(channels: Any, address: tuple[Any, ...]) -> None:
    """Close the connection of an address that has been idle longest, where it has `MOST_FROM_ONE`.

    One whose request is being answered is never closed.
    """
    mine = [channel for channel in channels if channel.addr[0] == address[0]]
    if len(mine) < MOST_FROM_ONE:
        return
    idle = [channel for channel in mine if not channel.requests and not channel.total_outbufs_len]
    if idle:
        min(idle, key=lambda channel: channel.last_activity).handle_close()
