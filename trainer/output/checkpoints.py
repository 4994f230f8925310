"""Decides which weights are kept, and writes checkpoints: each file whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.config import Checkpoints
from trainer.data.intensity import IntensityRange
from trainer.direction import Direction
from trainer.errors import TrainerError
from trainer.rundir import RESUME, aside_name, checkpoint_file

FORMAT = 1
MASK_RESIZE = "mask_resize"  # the checkpoint's entry
ROTATE_DIRECTION = "rotate_direction"  # likewise
FULL_BYTES = 2**16  # less is free on a disk that is full: a few blocks may remain


def weights_content(
    module: nn.Module,
    *,
    epoch: int,
    intensity_range: IntensityRange | None = None,
    mask_resize: str | None = None,
    rotate_direction: str | None = None,
) -> dict[str, Any]:
    """Return what a checkpoint holds: the weights, and how images and masks were read."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "epoch": epoch,
        "state_dict": dict(module.state_dict()),
    }
    if intensity_range is not None:
        content["intensity_range"] = intensity_range.as_json()
    # Always: a checkpoint without it is of a time when other classes were averaged, too.
    content[MASK_RESIZE] = mask_resize or "exact"
    # Likewise: without it, `rotate` turned the other way.
    content[ROTATE_DIRECTION] = rotate_direction or "clockwise"
    return content


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors of host memory aside and rename, so that a reader never sees half a file.

    Without fsync: after a power failure a run goes on from what the disk has, or anew.

    Raises:
        TrainerError: the disk is full or the folder cannot be written.
    """
    temporary = aside_name(path)  # that nobody can foresee: torch would follow a link there
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else _explain(error, path.parent)
        raise TrainerError(f"{path}: the checkpoint cannot be written ({reason})") from None
    finally:  # also when stopped in the middle
        with contextlib.suppress(OSError):  # of the two, the error above says more
            temporary.unlink(missing_ok=True)


def _explain(error: RuntimeError, folder: Path) -> str:
    """Say what torch hides: that the half-written file, which is still there, filled the disk."""
    is_full = shutil.disk_usage(folder).free < FULL_BYTES
    return os.strerror(errno.ENOSPC) if is_full else str(error).splitlines()[0]


@dataclass
class CheckpointKeeper:
    """Decides after each epoch whether its weights are kept.

    Attributes:
        best: the best accuracy so far, or the best of the figure that `best_by` names, where only
            the best checkpoint is kept.
        kept: the file of that one.
        direction: which of two figures is the better one.
        worst: what a figure counts as that is undefined, None to refuse that.
        replaced: files that a killed run would have removed next.
    """

    settings: Checkpoints
    num_epochs: int
    best: float | None = None
    kept: Path | None = None
    replaced: list[Path] = field(default_factory=list)
    direction: Direction = Direction.MAXIMIZE
    worst: float | None = None

    @property
    def keeps_one(self) -> bool:
        """Whether each file that is kept replaces the one before."""
        return self.settings.keep == "best"

    @property
    def state(self) -> tuple[float | None, str | None]:
        """The best accuracy so far and the file that is kept for it."""
        return self.best, None if self.kept is None else str(self.kept)

    @state.setter
    def state(self, state: tuple[float | None, str | None]) -> None:
        self.best = state[0]
        self.kept = None if state[1] is None else self.here(state[1])

    def here(self, name: str) -> Path:
        """Return where a file that a state names is now: its folder may have been moved since."""
        return Path(self.settings.save or "") / Path(name).name

    def after_epoch(self, epoch: int, accuracy: float | None) -> Path | None:
        """Return the file that this epoch's weights are to be written to, None for none.

        `keep: all` saves every `interval` epochs and the last one. `keep: best` saves whenever
        the accuracy is the best so far (each epoch, where nothing is evaluated).
        """
        if self.settings.save is None:
            return None
        path = Path(self.settings.save) / checkpoint_file(epoch)
        if not self.keeps_one:
            is_kept = epoch % self.settings.interval == 0 or epoch == self.num_epochs
            return path if is_kept else None
        best = self.best
        if accuracy is None or best is None or self.direction.is_better(accuracy, best):
            self.best, self.kept = accuracy, path
            return path
        return None

    def remove_leftovers(self, epoch: int) -> None:
        """Remove what a killed run has left in the folder that no run goes on with.

        That is the file that it was writing, and, with `keep: best`, checkpoints that others had
        replaced, and those of epochs after the one that this run goes on from. Those are done
        anew, and another may be the best then: on a GPU sums are not always added in the same
        order.
        """
        if self.settings.save is None:
            return
        folder = Path(self.settings.save)
        names = (checkpoint_file("*"), RESUME)
        found = [path for name in names for path in folder.glob(f".{name}.*.tmp")] + self.replaced
        if epoch and self.keeps_one:
            found += [path for path in folder.glob(names[0]) if _epoch_of(path) > epoch]
        for path in found:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _epoch_of(path: Path) -> int:
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0
