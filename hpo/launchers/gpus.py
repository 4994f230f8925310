"""Finds the GPUs that this process may use, through NVML, so without loading torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import UsageError

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
NO_DEVICES = ("", "-1", "NoDevFiles")  # what CUDA and schedulers write for "none"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU, or one MIG instance of a partitioned one.

    Attributes:
        uuid: empty where NVML does not say it.
        card: its place in NVML's (PCI bus) order.
        num_processes: the programs that compute on it, as far as the driver says.
        is_instance: whether it is one of a partitioned card's; a process can use one alone.
        problem: why it cannot be used; empty where nothing speaks against it.
    """

    uuid: str
    name: str
    card: int
    num_processes: int = 0
    is_instance: bool = False
    problem: str = ""

    def __str__(self) -> str:
        return f"GPU {self.card} ({self.uuid})" if self.uuid else f"GPU {self.card}"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The GPUs that NVML lists, or why it lists none.

    Attributes:
        has_library: whether NVIDIA's driver is installed here, at least its libraries.
        is_loaded: whether its kernel module is loaded, as far as NVML says.
        failure: what NVML said instead of a list.
    """

    gpus: tuple[Gpu, ...] = ()
    has_library: bool = False
    is_loaded: bool = False
    failure: str = ""

    def visible(self) -> tuple[Gpu, ...]:
        """Return all, or those that CUDA_VISIBLE_DEVICES names, in its order.

        Raises:
            UsageError: an index there means several MIG instances.
        """
        selection = os.environ.get(VISIBLE_DEVICES)
        if selection is None:
            return self.gpus
        return tuple(_unique(_named(self.gpus, selection, is_strict=False)))


def survey_gpus() -> Survey:
    """Ask NVML for every GPU of this machine, also for those that cannot be used."""
    try:
        import pynvml
    except ImportError:
        return Survey(failure="the Python package nvidia-ml-py is missing")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        code = error.value
        return Survey(
            failure=f"NVML: {error}",
            has_library=code != pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            is_loaded=code
            not in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED),
        )
    try:
        number = pynvml.nvmlDeviceGetCount()
        found = tuple(gpu for index in range(number) for gpu in _instances(pynvml, index))
    except pynvml.NVMLError as error:
        return Survey(failure=f"NVML: {error}", has_library=True, is_loaded=True)
    finally:
        pynvml.nvmlShutdown()
    return Survey(gpus=found, has_library=True, is_loaded=bool(found))


def select_gpus(gpus: Sequence[Gpu], selection: str) -> tuple[Gpu, ...]:
    """Return the GPUs that a user names among the visible ones, in that order.

    Raises:
        UsageError: a name that means no visible GPU, or several, or one that cannot be used.
    """
    return tuple(_unique(_named(gpus, selection, is_strict=True)))


def _instances(nvml: Any, index: int) -> Iterator[Gpu]:
    """Yield a card, or its MIG instances, because CUDA can't use the card itself then.

    An error that one card gives is that card's problem, and says nothing of the others.
    """
    try:
        card = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        yield Gpu(uuid="", name="", card=index, problem=f"NVML: {error}")
        return
    whole = _describe(nvml, card, index)
    try:
        is_partitioned = nvml.nvmlDeviceGetMigMode(card)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # most models know no MIG
        is_partitioned = False
    if not is_partitioned or whole.problem:
        yield whole
        return
    num_found = 0
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
        except nvml.NVMLError:  # the place is empty
            continue
        num_found += 1
        yield _describe(nvml, instance, index, is_instance=True)
    if not num_found:
        problem = "it is partitioned (MIG), and nobody has made an instance"
        yield Gpu(uuid=whole.uuid, name=whole.name, card=index, problem=problem)


def _describe(nvml: Any, handle: Any, card: int, *, is_instance: bool = False) -> Gpu:
    try:
        num_processes = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except nvml.NVMLError:  # not said to everybody, nor by every model
        num_processes = 0
    try:
        name = _text(nvml.nvmlDeviceGetName(handle))
    except nvml.NVMLError:
        name = "NVIDIA GPU"
    uuid, problem = "", ""
    try:
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        problem = "" if is_instance else _closed(nvml, handle)
    except nvml.NVMLError as error:  # workers are bound by it
        problem = f"NVML: {error}"
    return Gpu(
        uuid=uuid,
        name=name,
        card=card,
        num_processes=num_processes,
        is_instance=is_instance,
        problem=problem,
    )


def _closed(nvml: Any, card: Any) -> str:
    """Say why this user may not compute on a card that he may look at; empty if he may."""
    try:
        device = DEVICES / f"nvidia{nvml.nvmlDeviceGetMinorNumber(card)}"
        # opened, as CUDA does: a device cgroup refuses what the file's mode allows
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        return f"you may not open {device} ({error.strerror}); ask for its group, or your job's"
    except (OSError, nvml.NVMLError):  # not there, or another kind: CUDA may have its own way
        return ""
    return ""


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # old bindings return bytes


def _named(gpus: Sequence[Gpu], selection: str, *, is_strict: bool) -> Iterator[Gpu]:
    """Read a list of GPUs as CUDA does: up to the first entry that names none, if not strict.

    Indices count the cards in NVML's (PCI bus) order, which is what schedulers mean by them;
    UUIDs may be shortened as long as one GPU alone begins so.
    """
    where = "--gpus" if is_strict else VISIBLE_DEVICES
    for entry in (word.strip() for word in selection.split(",")):
        if entry.isdecimal():
            named = [gpu for gpu in gpus if gpu.card == int(entry)]
            if len(named) > 1:  # CUDA would take the first and say nothing
                uuids = ", ".join(gpu.uuid for gpu in named)
                raise UsageError(
                    f"{where}: {entry!r} is a partitioned card (MIG); name its instances: {uuids}"
                )
        else:
            named = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
            if len(named) > 1:
                named = [gpu for gpu in named if gpu.uuid == entry]
        if not named and is_strict:
            known = ", ".join(f"{gpu.card} = {gpu.uuid}" for gpu in gpus)
            raise UsageError(f"--gpus: {entry!r} names no GPU here, or several; there are {known}")
        if is_strict and named[0].problem:
            raise UsageError(f"--gpus: {named[0]} cannot be used: {named[0].problem}")
        if not named:
            return
        yield from named


def _unique(gpus: Iterator[Gpu]) -> list[Gpu]:
    return list(dict.fromkeys(gpus))


# --- where NVML lists none -------------------------------------------------------------------

DEVICES = Path("/dev")
LOADED = Path("/proc/driver/nvidia/gpus")  # seen in containers that were given no GPU, too
PCI = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor, and class of displays and 3-D controllers


def find_traces() -> tuple[str, bool]:
    """Return what says that this machine has NVIDIA GPUs, and whether their driver is loaded."""
    for folder, pattern in ((LOADED, "*"), (DEVICES, "nvidia[0-9]*")):
        if traces := sorted(str(path) for path in folder.glob(pattern)):
            return traces[0], True
    for device in sorted(PCI.glob("*")):
        if _read(device / "vendor") == _NVIDIA and _read(device / "class").startswith(_DISPLAY):
            return f"PCI device {device.name}", False
    return "", False


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
