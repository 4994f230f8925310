"""Has all of our modules loaded, and runs each command that it is asked for in a fork of itself.

    python prestarted.py SOCKET

What is asked for comes as JSON, with the files of its output. A fork has a process's own
environment, folder, streams, signals and end; what it saves is the start, most of a short command.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import socket
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = ("hpo", "trainer", "studies")
LENGTH = 4  # bytes of a request's length
OUTPUTS = 2  # standard output and standard error


def load() -> None:
    for package in PACKAGES:
        for module in pkgutil.walk_packages(
            importlib.import_module(package).__path__, f"{package}."
        ):
            importlib.import_module(module.name)
    gc.freeze()  # else each fork copies all of it at its first collection


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    size = array.array("i", [0] * OUTPUTS)
    first, ancillary, _, _ = connection.recvmsg(LENGTH, socket.CMSG_SPACE(size.itemsize * OUTPUTS))
    files = array.array("i", ancillary[0][2])
    with connection.makefile("rb") as stream:
        return json.loads(stream.read(int.from_bytes(first))), files.tolist()


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Return what to run, in the fork that is to run it; None where nobody asks any more."""
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if sys.stdin in ready:  # whoever has started us is gone
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            break
        connection.close()
    listener.close()
    request, files = receive(connection)
    pid = os.fork()
    if pid:
        for file in files:
            os.close(file)
        connection.sendall(json.dumps(pid).encode() + b"\n")
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # nobody waits any more
            connection.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode() + b"\n")
        os._exit(0)
    connection.close()
    for place, file in enumerate(files, 1):
        os.dup2(file, place)
        os.close(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return request


def end(request: dict[str, Any]) -> NoReturn:
    """Run a command and end as Python does, but for taking all modules apart, which takes longer
    than many a command."""
    code: object = 1
    try:
        code = become(request)
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001  # as Python does at its top
        sys.excepthook(*sys.exc_info())
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def become(request: dict[str, Any]) -> int:
    """Run a command as if Python had been started with it."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["words"]
    module, _, name = request["main"].partition(":")
    return getattr(importlib.import_module(module), name)()


if __name__ == "__main__":
    address = sys.argv[1]
    sys.path[0] = str(Path.cwd())  # instead of this folder, whose modules no command has
    load()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        Path(f"{address}.new").rename(address)  # whoever finds it is answered
        asked = serve(listener)
    if asked is not None:
        end(asked)
