"""Writes TensorBoard's event files: one for each trial, and the table of its HPARAMS page.

Neither torch nor TensorFlow is loaded: of the package `tensorboard` the messages and the framing
of records are used, not its writers, which go through TensorFlow where that is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams import summary_v2 as hp
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from hpo.folders import WorkFolders
from hpo.trackers import (
    Metrics,
    SearchedField,
    SearchEnd,
    TrackedSearch,
    TrackedTrial,
    Tracker,
    TrialEnd,
)
from trainer.direction import Direction

FILE_VERSION = "brain.Event:2"  # which TensorBoard expects in the first event of a file
PREFIX, SUFFIX = "events.out.tfevents", ".rml"  # whatever else is in a trial's folder is kept
OF_STUDY = f"{PREFIX}.0000000000."
LENGTH_BYTES, CHECKSUM_BYTES = 12, 4  # of a record: its length with a checksum, its own checksum
ASIDE = ".rml.tmp"
BEST = "best/{}"  # the score so far: its last point is the trial's score


class TensorBoard(Tracker):
    """A run for each trial below `OUTPUT/tensorboard/STUDY`."""

    def __init__(self, search: TrackedSearch) -> None:
        """Take the search."""
        super().__init__(search)
        self._folders = WorkFolders.of(search.output, search.study)
        folder = self._folders.tensorboard
        self.look = f"tensorboard --logdir {shlex.quote(os.path.relpath(folder))}"
        self._runs: dict[int, _Run] = {}

    def search_began(self) -> None:
        """Say what is searched, and that the score is its measure."""
        folder = self._folders.tensorboard
        # All drivers of a study write the same under the same name.
        path = folder / f"{OF_STUDY}{self.search.study_id}{SUFFIX}"
        for other in folder.glob(f"{OF_STUDY}*{SUFFIX}"):
            if other.name != path.name:  # of a study of that name that was deleted
                study_id = other.name.removeprefix(OF_STUDY).removesuffix(SUFFIX)
                folder.rename(folder.with_name(f"{folder.name}-{study_id}"))
        with _EventFile(path) as file:
            file.add(
                summary=hp.hparams_config_pb(
                    hparams=[
                        hp.HParam(name, _domain(field))
                        for name, field in self.search.searched.items()
                    ],
                    metrics=[hp.Metric(BEST.format(self.search.score), display_name="score")],
                )
            )
        file.close()

    def trial_began(self, trial: TrackedTrial) -> None:
        """Begin a file that follows those before: what these have of later epochs is void.

        They stay, for a TensorBoard that runs loses a run whose file goes. What they lack of the
        earlier epochs, because a driver was killed or had no tracker, is added.
        """
        if before := self._runs.pop(trial.number, None):
            before.file.close()
        folder = self._folders.tensorboard_run(trial.number)
        files = sorted(folder.glob(f"{PREFIX}.*{SUFFIX}"))
        known = _read_scores(files, self.search.score)
        missing = [
            epoch
            for epoch, metrics in sorted(trial.earlier.items())
            if epoch not in known or not _is_same(known[epoch], metrics[self.search.score])
        ]
        first = min([*missing, max(trial.earlier, default=0) + 1])
        with _EventFile(folder / _next_name(files)) as file:
            run = self._runs[trial.number] = _Run(file, self.search.score, self.search.direction)
            # The first one of a run is read as its start, each further one voids what is later.
            file.add(step=first, session_log=SessionLog(status=SessionLog.START))
            if not files:
                file.add(summary=hp.hparams_pb(self._values(trial), trial_id=folder.name))
            for epoch, metrics in sorted(trial.earlier.items()):
                run.add_epoch(epoch, metrics, is_known=epoch < first)
        for aside in folder.glob(f".*{ASIDE}"):  # of a driver that was killed
            aside.unlink(missing_ok=True)

    def _values(self, trial: TrackedTrial) -> dict[str, bool | float | str]:
        fields = self.search.searched
        return {key: _value(value, fields.get(key)) for key, value in trial.values.items()}

    def epoch_ended(self, number: int, epoch: int, metrics: Metrics) -> None:
        """Add a point to each curve."""
        self._runs[number].add_epoch(epoch, metrics)

    def trial_ended(self, number: int, end: TrialEnd) -> None:
        """Say in the table how it ended."""
        run = self._runs[number]
        if end.is_final:
            failed = end.state == "failed"
            status = Status.STATUS_FAILURE if failed else Status.STATUS_SUCCESS
            info = SessionEndInfo(status=status, end_time_secs=time.time())
            data = metadata.create_summary_metadata(HParamsPluginData(session_end_info=info))
            tag, tensor = metadata.SESSION_END_INFO_TAG, metadata.NULL_TENSOR
            value = Summary.Value(tag=tag, metadata=data, tensor=tensor)
            run.file.add(summary=Summary(value=[value]))
        run.file.close()

    def search_ended(self, end: SearchEnd) -> None:
        """Close the files of trials that others go on with."""
        for run in self._runs.values():
            run.file.close()


class _Run:
    """The curves of a trial."""

    def __init__(self, file: _EventFile, score: str, direction: Direction) -> None:
        self.file, self._score, self._direction = file, score, direction
        self._best: float | None = None

    def add_epoch(self, epoch: int, metrics: Metrics, *, is_known: bool = False) -> None:
        points = dict(metrics)
        if (score := points.get(self._score)) is not None:
            scores = [score] if self._best is None else [self._best, score]
            self._best = self._direction.best(scores)
            points[BEST.format(self._score)] = self._best
        if not is_known:
            values = [Summary.Value(tag=tag, simple_value=point) for tag, point in points.items()]
            self.file.add(step=epoch, summary=Summary(value=values))


class _EventFile:
    """An event file, of which a reader at any time finds whole events, whoever is killed.

    As a context it gets its name when it is left, with what it has by then.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # a name that TensorBoard does not take for an event file's
        self._aside = path.with_name(f".{os.urandom(8).hex()}{ASIDE}")
        self._file: BinaryIO = self._aside.open("xb", buffering=0)  # each record in one write
        self._write(Event(wall_time=time.time(), file_version=FILE_VERSION))

    def __enter__(self) -> _EventFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._aside.replace(self.path)
        else:
            self._file.close()
            self._aside.unlink(missing_ok=True)

    def add(self, **event: Any) -> None:
        """Add an event, given as `Event` has it, at this time."""
        if self._file.closed:  # of a trial that was paused
            self._file = self.path.open("ab", buffering=0)
        self._write(Event(wall_time=time.time(), **event))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        RecordWriter(self._file).write(event.SerializeToString())


def _next_name(files: Sequence[Path]) -> str:
    """Return a name that TensorBoard reads after those files, whatever clock wrote them."""
    now = time.time_ns()
    if files:
        now = max(now, 1 + int(files[-1].name.removeprefix(f"{PREFIX}.").partition(".")[0]))
    return f"{PREFIX}.{now}.{socket.gethostname()}.{os.getpid()}{SUFFIX}"


def _read_scores(files: Sequence[Path], score: str) -> dict[int, float]:
    """Return step -> score of what TensorBoard finds in some files of a run."""
    found: dict[int, float] = {}
    for event in (event for file in files for event in _read(file)):
        if event.HasField("session_log"):
            found = {step: value for step, value in found.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == score:
                found[event.step] = value.simple_value
    return found


def _read(file: Path) -> Iterator[Event]:
    """Yield the events of a file, up to one that was cut off."""
    content, offset = file.read_bytes(), 0
    with contextlib.suppress(DecodeError, struct.error):
        while offset < len(content):
            (size,) = struct.unpack_from("<Q", content, offset)
            start, end = offset + LENGTH_BYTES, offset + LENGTH_BYTES + size
            offset = end + CHECKSUM_BYTES
            if offset <= len(content):
                yield Event.FromString(content[start:end])


def _is_same(stored: float, score: float) -> bool:
    return struct.pack("<f", stored) == struct.pack("<f", score)  # it was stored as a float32


def _domain(field: SearchedField) -> Any:
    """Return what the page offers to choose from; None where it may find out itself."""
    if field.choices is None:
        return hp.RealInterval(float(field.low or 0), float(field.high or 0))
    return hp.Discrete([_value(choice, field) for choice in field.choices])


def _value(value: Any, field: SearchedField | None) -> bool | float | str:
    """Return a value as its column has it: of one type in all trials, or rows would be hidden."""
    choices = () if field is None or field.choices is None else field.choices
    kinds = {type(each) for each in (*choices, value)}
    if kinds == {bool}:
        return bool(value)
    if kinds <= {int, float}:
        return float(value)
    return value if isinstance(value, str) else json.dumps(value)
