"""What is recorded with a trial: with what and where it ran, and how it ended.

Two attributes, each written once: PROVENANCE when the trial starts (so that a trial whose driver
died still says where), END before it is told. END is small, because `rml-study status` reads
those of all trials.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.launchers.gpus import survey_gpus
from hpo.records import DataRecord, EndRecord, RunRecord

if TYPE_CHECKING:
    from hpo.launchers import Launcher, Slot

MAX_BYTES = 50_000  # MariaDB's TEXT column holds 65,535, and Optuna stores JSON text
MAX_MESSAGE_CHARS = 500
MAX_TAIL_CHARS = 2000
_COMMIT_TIMEOUT_S = 5


def describe_run(
    *,
    config: Mapping[str, Any],
    network_file: str,
    run_dir: Path,
    attempt: int,
    launcher: Launcher,
    slot: Slot,
    data: DataRecord,
) -> RunRecord:
    """Return the attribute PROVENANCE of an attempt at a trial, as JSON has it.

    Args:
        config: the trial's config, `layers` by its name.
        network_file: the network's file in the inputs folder, which carries its hash.
        launcher: what started the worker; containers leave the digest of their image.
        slot: where it runs: its GPUs and threads.
        data: hash of the data set, and what is read of it.

    A config that is too long for a database loses its largest sections: each leaves its hash, and
    the whole is in the run folder.
    """
    names = _gpu_names() if slot.gpu_uuids else {}
    entry: RunRecord = {
        "config": dict(config),
        "config_hash": config_hash(config),
        "network": network_file,
        "seed": config.get("seed"),
        "attempt": attempt,
        "run_dir": str(run_dir),
        "host": socket.gethostname(),
        "uid": os.getuid(),
        "user": _user(),
        "launcher": launcher.describe(),
        "image": launcher.image_id,
        "gpus": [{"uuid": uuid, "name": names.get(uuid)} for uuid in slot.gpu_uuids],
        "cpu": {"name": _cpu_name(), "threads": slot.num_threads},
        "code": code_version(),
        "data": data,
    }
    return _shortened(entry)


class Stopwatch:
    """Takes the times of a trial: claimed (`time.monotonic()`), last launched, each report."""

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        """Start it; `before` has the seconds of earlier attempts that gave the trial back."""
        self.claimed = time.monotonic()
        self._before = before or {}
        self._launched: float | None = None
        self._reports: list[float] = []

    def launch(self) -> None:
        """The worker is started now."""
        self._launched = time.monotonic()
        self._reports.clear()

    def report(self) -> None:
        """An evaluation has been read now."""
        self._reports.append(time.monotonic())

    @property
    def total(self) -> float:
        """Seconds since the claim."""
        return time.monotonic() - self.claimed

    def seconds(self) -> dict[str, float]:
        """Return `total`, `first_epoch` (worker started to first report), `further_epochs`.

        What earlier attempts took that gave the trial back is in them; a later start of the
        worker counts among the further epochs.
        """
        entry = {"total": self.total + self._before.get("total", 0.0)}
        first, further = self._before.get("first_epoch"), self._before.get("further_epochs", 0.0)
        if self._launched is not None and self._reports:
            if first is None:
                first = self._reports[0] - self._launched
            else:
                further += self._reports[0] - self._launched
            further += self._reports[-1] - self._reports[0]
        if first is not None:
            entry |= {"first_epoch": first, "further_epochs": further}
        return {name: round(seconds, 3) for name, seconds in entry.items()}


def describe_end(
    *,
    end: str,
    score: float | None,
    epoch: int | None,
    message: str,
    log_tail: str,
    attempt: int,
    seconds: Mapping[str, float],
) -> EndRecord:
    """Return the attribute END: how an attempt ended, with its durations (see Stopwatch).

    The best score with its epoch is there too, so that `rml-study status` need not look for it
    among all values of all trials.
    """
    entry: EndRecord = {
        "end": end,
        "dice_dataset": score,
        "epoch": epoch,
        "host": socket.gethostname(),
        "attempt": attempt,
        "seconds": dict(seconds),
    }
    if message:
        entry["message"] = message[:MAX_MESSAGE_CHARS]
    if log_tail:
        entry["log_tail"] = log_tail[-MAX_TAIL_CHARS:]
    return entry


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a config's canonical JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_version() -> dict[str, str | None]:
    """Return the package's version, and the commit where it runs from a checkout."""
    return {"version": importlib.metadata.version("rml-optimize"), "commit": _commit()}


def _commit() -> str | None:
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, or not our checkout
        return None
    return result.stdout.strip() or None


@functools.cache
def _cpu_name() -> str:
    """Return the processor's name where Linux gives one (x86), else the architecture's."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return f"{value.strip()} ({platform.machine()})"
    return platform.machine()


@functools.cache
def _gpu_names() -> Mapping[str, str]:
    return {gpu.uuid: gpu.name for gpu in survey_gpus().gpus}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in containers
        return None


def _shortened(entry: RunRecord) -> RunRecord:
    config = dict(entry["config"])
    result: RunRecord = {**entry, "config": config}
    for _ in tuple(config):
        if _size(result) <= MAX_BYTES:
            break
        key = max(config, key=lambda name: _size(config[name]))
        digest = hashlib.sha256(json.dumps(config[key], sort_keys=True).encode()).hexdigest()
        config[key] = {"sha256": digest}
        result["is_shortened"] = True
    return result


def _size(value: Any) -> int:
    return len(json.dumps(value).encode())
