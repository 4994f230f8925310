"""A TCP proxy in front of a database: goes silent, delays, or cuts its connections."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

from sqlalchemy import make_url


class Proxy:
    """Passes bytes on until told otherwise.

    Silent, it keeps its connections and takes new ones, but nothing comes of them any more, as
    of a server machine that froze or behind a firewall that forgot them. Away, it ends new ones.
    """

    def __init__(self, host: str, port: int, *, delay_s: float = 0) -> None:
        self.is_silent = False
        self.is_away = False
        self._forgotten: set[socket.socket] = set()
        self.delay_s = delay_s
        self._target = (host, port)
        self._ends: list[socket.socket] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def forget(self) -> int:
        """Let nothing come any more of the connections that are open; return how many."""
        num_open = len(self._open) // 2
        self._forgotten |= self._open
        self._open.clear()
        return num_open

    def cut(self) -> int:
        """End the connections that are open; return how many."""
        ends = list(self._open)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        return len(ends) // 2

    def close(self) -> None:
        """End everything."""
        self._is_closed = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.is_away:
                    raise ConnectionRefusedError
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._ends += [client, server]
            self._open |= {client, server}
            self._start(self._pass_on, client, server)
            self._start(self._pass_on, server, client)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not self._is_closed:
                is_ready = select.select([source], [], [], 0.1)[0]
                if source in self._forgotten:
                    return
                if self.is_silent:
                    time.sleep(0.1)
                elif is_ready:
                    data = source.recv(65536)
                    if not data:
                        break
                    time.sleep(self.delay_s)
                    sink.sendall(data)
        self._open -= {source, sink}
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxied(url: str, *, delay_s: float = 0) -> Iterator[tuple[str, Proxy]]:
    """Yield a database's URL that goes through a proxy, and the proxy."""
    parsed = make_url(url)
    assert parsed.host is not None and parsed.port is not None
    proxy = Proxy(parsed.host, parsed.port, delay_s=delay_s)
    try:
        through = parsed.set(host="127.0.0.1", port=proxy.port)
        yield through.render_as_string(hide_password=False), proxy
    finally:
        proxy.close()
