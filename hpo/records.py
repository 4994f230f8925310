"""What is written to a trial's attributes, and read from them: how it ran, its end, its model.

A record may be of an earlier release, or of an engine that says less, so any key may be absent;
whoever reads one has to do without. They hold what JSON holds.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping
from typing import Any, TypedDict, cast

from hpo.keys import ABOUT, END, MODEL, PROVENANCE


class AboutRecord(TypedDict, total=False):
    """The attribute ABOUT of a study: what its report says and no trial does."""

    is_synthetic: bool
    select_on: str  # "test" or "validation"
    selected_on: str  # the images that trials are compared on, in words
    scored_at: str
    averaged: str
    published: str | None
    data: str


class DataRecord(TypedDict, total=False):
    """Which images a trial reads: their hash, the folder's name, and the parts in it."""

    hash: str
    folder: str  # "data", or the name of the study's split
    train: list[str]  # inputs, targets
    test: list[str]
    group_by: str | None


class RunRecord(TypedDict, total=False):
    """The attribute PROVENANCE: with what and where an attempt at a trial runs."""

    config: dict[str, Any]  # the `neural_network` object, `layers` by its name
    config_hash: str
    is_shortened: bool  # of a config that is too long for a database
    network: str  # file in the inputs folder
    seed: int | None
    attempt: int
    run_dir: str
    host: str
    uid: int
    user: str | None
    launcher: str
    image: str | None
    gpus: list[dict[str, str | None]]
    cpu: dict[str, Any]
    code: dict[str, str | None]
    data: DataRecord
    lease_s: float


OUT_OF_TIME = "out of time"  # the `end` of a trial that --trial-timeout has stopped


class EndRecord(TypedDict, total=False):
    """The attribute END: how an attempt ended; small, because those of all trials are read."""

    end: str
    dice_dataset: float | None  # the score, where trials are compared by it; see `noted_score`
    score: float | None  # likewise, where they are compared by another objective
    objective: str
    epoch: int | None
    dice_per_class: dict[str, float | None]  # of that epoch; of networks with several
    host: str
    attempt: int
    seconds: dict[str, float]
    message: str
    log_tail: str


class PauseRecord(TypedDict, total=False):
    """The attribute PAUSED: where a trial waits, and how it ends if it never goes on."""

    epoch: int
    attempt: int
    host: str
    runs: str  # the study's folder there
    last_s: float  # seconds of the last attempt
    end: EndRecord


class ModelEntry(TypedDict, total=False):
    """What `trial.json` says of a model; figures beside the score are there if they are known."""

    study: str
    study_id: str | None
    trial: int
    attempt: int
    epoch: int
    selected_on: str
    objective: str  # with the score: where it is not `dice_dataset`
    direction: str  # of an objective that is minimized
    score: float
    dice_dataset: float | None
    dice_per_image: float | None
    dice_per_class: dict[str, float | None]  # of networks with several
    params: dict[str, Any]


class ModelRecord(TypedDict, total=False):
    """The attribute MODEL: how a trial's model is made from its checkpoint, and where else it is.

    Size and time of the checkpoint tell it from another one at the same place.
    """

    host: str
    folder: str  # the driver's best_model/
    runs: str
    attempt: int
    artifact: str | None
    older: list[str]  # archives of earlier attempts
    checkpoint: list[int] | None
    network: str
    config: dict[str, Any] | None  # None of one that is too long for a database
    entry: ModelEntry


class PresenceRecord(TypedDict):
    """The attribute DRIVER of a study: when a driver gave a sign of life."""

    renewed: float  # seconds since 1970, by the database's clock
    lease_s: float  # its own


def about(attributes: Mapping[str, Any]) -> AboutRecord:
    """Return what a study with those attributes says of itself, empty of an earlier release's."""
    return cast("AboutRecord", _record(attributes, ABOUT))


def run_of(attributes: Mapping[str, Any]) -> RunRecord:
    """Return how a trial with those attributes ran, an empty record if it does not say."""
    return cast("RunRecord", _record(attributes, PROVENANCE))


def end_of(attributes: Mapping[str, Any]) -> EndRecord:
    """Return how a trial ended."""
    return cast("EndRecord", _record(attributes, END))


def notes_score(end: Mapping[str, Any]) -> bool:
    """Say whether a trial's end notes which score it has, or that it has none."""
    return "score" in end or "dice_dataset" in end


def noted_score(end: Mapping[str, Any]) -> float | None:
    """Return the score that a trial's end notes, None where it has none, or notes none."""
    value = end.get("score", end.get("dice_dataset"))
    return value if isinstance(value, float | int) else None


def recorded_model(attributes: Mapping[str, Any]) -> ModelRecord:
    """Return a trial's model, be it of its last attempt or of one that died."""
    return cast("ModelRecord", _record(attributes, MODEL))


def began_text(started: dt.datetime) -> str:
    """Return the attribute BEGAN of a trial; as texts, earlier ones come first.

    Args:
        started: its first start, as Optuna's tables hold it: UTC, without saying so.
    """
    return started.replace(tzinfo=dt.UTC).isoformat(" ", "microseconds")


def read_began(value: object) -> dt.datetime | None:
    """Return what `began_text` was made of; None of what is no such text."""
    with contextlib.suppress(ValueError):
        if isinstance(value, str):
            return dt.datetime.fromisoformat(value).astimezone(dt.UTC).replace(tzinfo=None)
    return None


def _record(attributes: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = attributes.get(key)
    return found if isinstance(found, dict) else {}
