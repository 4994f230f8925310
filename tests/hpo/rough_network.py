"""Blows of the database and the network to it, and of whoever asks drivers to stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from chaos import Chaos, Server
from proxy import Proxy
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

DELAY_S = 0.1  # each way
FAR = "far"


class RoughNetwork(Chaos):
    """Drivers near and far, the far ones over a slow connection that breaks and falls silent."""

    def __init__(
        self, folder: Path, server: Server, arguments: dict[str, list[str]], seed: int,
        quotas: dict[str, int],
    ) -> None:  # fmt: skip
        super().__init__(folder, server, arguments, seed, quotas)
        url = make_url(server.url)
        assert url.host is not None and url.port is not None
        self._proxy = Proxy(url.host, url.port, delay_s=DELAY_S)
        self._kill_one_of |= {
            "restart": self._restart_database,
            "backends": self._end_backends,
            "cut": self._cut,
            "silence": self._silence,
            "request": self._ask_driver,
        }

    def url_of(self, kind: str) -> str:
        """Return the URL over the proxy for the far ones."""
        url = make_url(super().url_of(kind))
        if kind == FAR:
            url = url.set(host="127.0.0.1", port=self._proxy.port)
        return url.render_as_string(hide_password=False)

    def close(self) -> None:
        """End what still runs after a failure, and the proxy."""
        super().close()
        self._proxy.close()

    def _restart_database(self, held: dict[int, tuple[int, int]]) -> bool:
        self.server.restart()
        return True

    def _end_backends(self, held: dict[int, tuple[int, int]]) -> bool:
        query = text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
        try:
            with self._engine.connect() as connection:
                return bool(connection.scalar(query))
        except SQLAlchemyError:
            return False

    def _cut(self, held: dict[int, tuple[int, int]]) -> bool:
        return self._proxy.cut() > 0

    def _silence(self, held: dict[int, tuple[int, int]]) -> bool:
        return self._proxy.forget() > 0

    def _ask_driver(self, held: dict[int, tuple[int, int]]) -> bool:
        holders = self._holders(held)
        if holders:
            number = self._rng.choice((signal.SIGTERM, signal.SIGHUP))
            os.kill(self._rng.choice(holders).process.pid, number)
        return bool(holders)
