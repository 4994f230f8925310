"""Says how far the reading of images has come, where that takes long enough to wonder."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from trainer.log import Log
from trainer.stopping import stop_if_requested

SILENT_S = 2.0
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_BARS = 0.2
BAR_WIDTH = 40


class ReadingProgress:
    """A bar on a terminal, a line now and then in a log; nothing in the first two seconds."""

    def __init__(self, log: Log, num_images: int, terminal: TextIO | None = None) -> None:
        self._log = log
        self._num_images = num_images
        self._num_done = 0
        self._terminal = terminal or sys.stderr
        self._has_bar = False
        self._started = time.monotonic()
        self._next = self._started + SILENT_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._has_bar:
            self._terminal.write("\r\x1b[K")  # the line is whoever writes next's
            self._terminal.flush()

    def advance(self) -> None:
        """Note that one more image has been read; a request to stop is heard here."""
        stop_if_requested()
        self._num_done += 1
        now = time.monotonic()
        if now < self._next:
            return
        left_s = (now - self._started) / self._num_done * (self._num_images - self._num_done)
        text = f"Reading images: {self._num_done} of {self._num_images}, {left_s:.0f} s left"
        if self._terminal.isatty():
            self._next = now + SECONDS_BETWEEN_BARS
            self._has_bar = True
            bar = "#" * (BAR_WIDTH * self._num_done // self._num_images)
            self._terminal.write(f"\r\x1b[K[{bar:<{BAR_WIDTH}}] {text}")
            self._terminal.flush()
        else:
            self._next = now + SECONDS_BETWEEN_LINES
            self._log(text)
