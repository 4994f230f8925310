"""Saves the network's weights, atomically, and keeps as many files as the config asks for."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.config import Checkpoints
from trainer.data.intensity import IntensityRange
from trainer.errors import TrainerError
from trainer.rundir import checkpoint_file

FORMAT = 1
MASK_RESIZE = "mask_resize"  # the checkpoint's entry
FULL_BYTES = 2**16  # less is free on a disk that is full: a few blocks may remain


def save_weights(
    module: nn.Module,
    path: Path,
    *,
    epoch: int,
    intensity_range: IntensityRange | None = None,
    mask_resize: str | None = None,
) -> None:
    """Write the weights as a checkpoint, with how images and masks were read.

    Raises:
        TrainerError: the disk is full or the folder cannot be written.
    """
    state = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    content: dict[str, Any] = {"format": FORMAT, "epoch": epoch, "state_dict": state}
    if intensity_range is not None:
        content["intensity_range"] = intensity_range.as_json()
    if mask_resize is not None:
        content[MASK_RESIZE] = mask_resize
    write_checkpoint(content, path)


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write aside and rename, so that a reader never sees half a file.

    Raises:
        TrainerError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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


class CheckpointKeeper:
    """Decides after each epoch whether to save, and removes what is not kept."""

    def __init__(
        self,
        settings: Checkpoints,
        *,
        num_epochs: int,
        intensity_range: IntensityRange | None = None,
        mask_resize: str | None = None,
    ) -> None:
        self._settings = settings
        self._mask_resize = mask_resize
        self._intensity_range = intensity_range
        self._num_epochs = num_epochs
        self._best: float | None = None
        self._kept: Path | None = None

    @property
    def state(self) -> tuple[float | None, str | None]:
        """The best accuracy so far and the file that is kept for it."""
        return self._best, None if self._kept is None else str(self._kept)

    @state.setter
    def state(self, state: tuple[float | None, str | None]) -> None:
        self._best = state[0]
        self._kept = None if state[1] is None else Path(state[1])

    def after_epoch(self, module: nn.Module, *, epoch: int, accuracy: float | None) -> Path | None:
        """Save the weights of this epoch if the config wants them; return the file.

        `keep: all` saves every `interval` epochs and the last one. `keep: best` saves whenever
        the accuracy is the best so far (each epoch, where nothing is evaluated) and removes the
        file that it replaces.
        """
        if self._settings.save is None:
            return None
        path = Path(self._settings.save) / checkpoint_file(epoch)
        if self._settings.keep == "all":
            if epoch % self._settings.interval == 0 or epoch == self._num_epochs:
                self._save(module, path, epoch)
                return path
            return None
        if accuracy is not None and self._best is not None and accuracy <= self._best:
            return None
        self._save(module, path, epoch)
        if self._kept is not None:
            self._kept.unlink(missing_ok=True)
        self._best, self._kept = accuracy, path
        return path

    def _save(self, module: nn.Module, path: Path, epoch: int) -> None:
        save_weights(
            module,
            path,
            epoch=epoch,
            intensity_range=self._intensity_range,
            mask_resize=self._mask_resize,
        )
