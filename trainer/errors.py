"""What can go wrong in the worker, and the exit code of each.

TrainerError             1   anything else: a folder that cannot be written, say
├── UserError            2   bad config or data: every trial would fail alike
│   ├── ConfigError          a key of config.json
│   ├── DataError            an image, a mask, a folder
│   │   └── BoundError           larger, deeper or of another kind than it may be
│   ├── NetworkError         the network file
│   └── WeightsError         a checkpoint to load
├── DivergedError        3   the loss is NaN or infinite
├── OutOfMemoryError     4   the batch does not fit the device
├── DeviceError          5   the GPU that was given cannot be used; another may
├── HostMemoryError      1   the machine's own memory is used up, not its GPU's
├── LostProcessError     1   another process of the run was killed
└── ReportedError            another process has said it; the exit code is that one's
StopRequestedError     143   SIGTERM, as a shell reports it; no Exception, like KeyboardInterrupt
"""

from __future__ import annotations

from typing import ClassVar


def first_line(error: BaseException) -> str:
    """Return what an error of a library says, without the places in its code that follow."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class TrainerError(Exception):
    """Base of every error that the worker reports in one line."""

    exit_code: ClassVar[int] = 1


class UserError(TrainerError):
    """Something that the user can mend; the message says how."""

    exit_code = 2


class ConfigError(UserError):
    """A key of the config is missing, unknown, or has a value that cannot work."""


class DataError(UserError):
    """An image, a mask or a folder cannot be used."""


class NetworkError(UserError):
    """The network description cannot be built, or does not fit the data."""


class WeightsError(UserError):
    """A checkpoint cannot be read, or matches nothing in the network."""


class DivergedError(TrainerError):
    """The loss became NaN or infinite."""

    exit_code = 3


class OutOfMemoryError(TrainerError):
    """The device has too little memory for the batch."""

    exit_code = 4


class DeviceError(TrainerError):
    """The GPU that this process was given cannot be used: no fault of config or data."""

    exit_code = 5


class HostMemoryError(TrainerError):
    """A run on a GPU has found no memory of the machine's: no fault of the batch."""


class LostProcessError(TrainerError):
    """Another process of this run is gone, or does not answer."""


class ReportedError(TrainerError):
    """The run has failed, and another of its processes says why."""

    def __init__(self, run_exit_code: int) -> None:
        super().__init__()
        self.run_exit_code = run_exit_code


class StopRequestedError(BaseException):
    """Somebody asked the worker to stop.

    Raised wherever the main thread is, in libraries too, whose `except Exception` must not eat it.

    Attributes:
        keep_state: somebody may go on with the run.
    """

    exit_code: ClassVar[int] = 143

    def __init__(self, message: str, *, keep_state: bool = True) -> None:
        super().__init__(message)
        self.keep_state = keep_state
