"""`rml-study dashboard`: Optuna's web pages on a study, by default for this machine only."""

from __future__ import annotations

import contextlib
import errno
import secrets
import signal
import socket
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import typer

from hpo.command_line import as_options
from hpo.errors import UsageError
from hpo.study.common import choose_study, database_url, say
from hpo.study.options import Artifacts, StudyOptions
from trainer.extras import how_to_install

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore
    from optuna.storages import RDBStorage

# The pages have no login, and buttons that delete: nobody else may reach them unasked, and on a
# login node everybody reaches this machine's own address.
LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8080


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: requests are no news."""


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """Options of `rml-study dashboard`."""

    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Default: 8080, or a free one"),
    ] = None
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen on; in a container 0.0.0.0"),
    ] = LOOPBACK
    writable: Annotated[
        bool, typer.Option("--writable", help="Let the pages change and delete studies")
    ] = False
    needs_token: Annotated[
        bool,
        typer.Option("--token/--no-token", help="Ask for the token that is in the address"),
    ] = True
    artifacts: Artifacts = None
    study: StudyOptions


@as_options
def dashboard(options: DashboardOptions) -> None:
    """Serve Optuna's dashboard until Ctrl-C, to read in, for this machine only.

    The address carries a random token, so that no other user of the machine can look in.
    """
    try:
        import optuna_dashboard
    except ImportError:
        raise UsageError(
            f"optuna-dashboard is not installed; try {how_to_install('dashboard')}"
        ) from None
    from hpo.store.database import close_storage, open_storage
    from hpo.study.dashboard_access import AccessGate
    from hpo.study.dashboard_storage import PagesArtifacts, PagesStorage

    host, port = options.host, _free_port(options.host, options.port)
    token = secrets.token_urlsafe(16) if options.needs_token else None
    rdb = open_storage(database_url(options.study))
    try:
        page = _page_of(rdb, options.study.study_name)
        store = PagesArtifacts(_open_store(options))
        app = optuna_dashboard.wsgi(PagesStorage(rdb), artifact_store=store)
        with make_server(
            host,
            port,
            AccessGate(app, token=token, port=port, writable=options.writable),
            server_class=_Server,
            handler_class=_Quiet,
        ) as server:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _interrupt)
            query = f"?token={token}" if token else ""
            say(f"dashboard: http://{host}:{server.server_port}/{page}{query} (Ctrl-C ends it)")
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
    finally:
        close_storage(rdb)


def _page_of(rdb: RDBStorage, name: str | None) -> str:
    """Return the path of a study's page, of the list of studies where none is named."""
    if name is None:
        return ""
    chosen = choose_study(name, [study.study_name for study in rdb.get_all_studies()])
    return f"dashboard/studies/{rdb.get_study_id_from_name(chosen)}"


def _open_store(options: DashboardOptions) -> ArtifactStore:
    """Return where a search has put the pictures of its trials."""
    from optuna.artifacts import FileSystemArtifactStore

    from hpo.folders import WorkFolders
    from hpo.results.artifacts import open_model_store, pictures_in

    folders = WorkFolders.of(options.study.output_dir, options.study.study_name or "")
    location = pictures_in(options.artifacts, folders)
    if options.artifacts is None:  # which need not be there, and a reader makes none
        return FileSystemArtifactStore(location)
    return open_model_store(location)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _free_port(host: str, wanted: int | None) -> int:
    """Return a port that can be listened on.

    Raises:
        UsageError: the one that was asked for is taken, or the address is not this machine's.
    """
    for port in (wanted or DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise UsageError(f"--host {host}: {error.strerror}; try another") from None
                if wanted is not None:
                    raise UsageError(f"--port {wanted}: {error.strerror}; try another") from None
                continue
            return int(probe.getsockname()[1])
    raise UsageError("no port is free here; name one with --port")
