"""Lets threads have as many pixels in hand as the memory takes, whatever their images' sizes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.data.headers import Header

IN_HAND = 2**28  # bytes of decoded images; one that is larger is read alone


def _num_bytes(header: Header) -> int:
    """Return what an image takes in colours, which gray ones are read in, too."""
    is_deep = header.pixel_bytes % 2 == 0 and header.pixel_bytes != 4
    return header.width * header.height * (8 if is_deep else 4)


class Room:
    """So many bytes, which are taken and given back."""

    def __init__(self, total: int = IN_HAND) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def of(self, *headers: Header | None) -> Iterator[None]:
        """Wait until images of these headers have room, and keep it."""
        sizes = (_num_bytes(each) for each in headers if each is not None)
        wanted = min(sum(sizes), self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


ROOM = Room()  # of this process
