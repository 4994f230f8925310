"""A driver that is asked to stop ends in time, whatever its output does."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from support import clean_environment, wait_for

STUCK = """
import sys, time
from hpo.run import stopping
stopping.LIMIT_S = stopping._CLOSING_LIMIT_S = 0.5
def say(text):
    print(text, flush=True)
request = stopping.StopRequest(say)
with request.on_signals():
    print("ready", file=sys.stderr, flush=True)
    say("x" * 2**20)
"""


def test_driver_ends_though_its_output_takes_nothing() -> None:
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=writer, stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            process.stderr.readline()
            wait_for(lambda: _is_full(writer))
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 128 + signal.SIGTERM
        finally:
            process.kill()
            os.close(writer)
            os.close(reader)


def _is_full(writer: int) -> bool:
    return not select.select([], [writer], [], 0)[1]
