"""Says when a trial is paused and which goes on, for one driver and its workers."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from optuna.trial import TrialState

from hpo.folders import ATTEMPT, WorkFolders
from hpo.launchers import Launcher
from hpo.plan.promotion import Standing, may_go_on, rungs, to_promote
from hpo.plan.pruners import PROMOTION
from hpo.plan.spec import StudySpec
from hpo.records import EndRecord, PauseRecord
from hpo.store.claim import Lease
from hpo.store.pausing import KnownTrial
from hpo.worker_files import remove
from trainer import rundir
from trainer.direction import Direction
from trainer.keypath import get_path

NEEDED = ("checkpoints.resume", "checkpoints.pause_after")  # of a worker, to go on with a trial
_STATES: dict[TrialState, Literal["paused", "running", "finished", "ended"]] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",  # given back: somebody goes on with it
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "ended",
}


@dataclass(frozen=True, kw_only=True)
class Pausing:
    """When trials are paused, and which go on: the `Promotion` of `hpo.store.pausing`.

    Attributes:
        is_able: whether this driver's worker can go on with a trial. One that cannot leaves
            paused trials to other drivers.
        direction: which of two scores is the better one.
    """

    folders: WorkFolders
    num_epochs: int
    is_able: bool
    direction: Direction
    _done: set[tuple[int, int]] = field(default_factory=set)  # attempts without a state

    @classmethod
    def of(cls, spec: StudySpec, launcher: Launcher) -> Pausing | None:
        """Return it; None for a search without promotion."""
        if spec.pruner != PROMOTION:
            return None
        keeps_state = get_path(spec.base, "checkpoints.resume") is True
        is_able = keeps_state and launcher.capabilities().issuperset(NEEDED)
        return cls(
            folders=spec.folders,
            num_epochs=spec.num_epochs,
            is_able=is_able,
            direction=spec.objective.direction,
        )

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs after which trials are paused."""
        return rungs(self.num_epochs)

    @property
    def first_rung(self) -> int:
        """The first of them, or the last epoch where there is none."""
        return next(iter(self.rungs), self.num_epochs)

    def end_of(self, lease: Lease) -> int | None:
        """Return the epoch after which a trial is paused; None if it goes to its last one."""
        until = lease.until or self.first_rung
        return until if self.is_able and until < self.num_epochs else None

    def until(self, epoch: int) -> int:
        """Return the epoch up to which a trial is trained that was paused after `epoch`."""
        return next((rung for rung in self.rungs if rung > epoch), self.num_epochs)

    def choose(
        self,
        known: Sequence[KnownTrial],
        here: Collection[int] | None,
        *,
        all_started: bool,
        is_timed: bool = False,
    ) -> int | None:
        """Return the number of the paused trial to go on with, None if there is none."""
        return to_promote(
            [standing_of(each, self.direction, here) for each in known],
            self.rungs,
            all_started=all_started,
            num_epochs=self.num_epochs,
            is_timed=is_timed,
        )

    def can_read(self, number: int, paused: PauseRecord) -> bool:
        """Say whether the state of a trial is here."""
        if not self.is_able:
            return False
        if self._is_ours(paused):
            return True  # if it was removed since, the trial starts anew
        state = self.folders.attempt(number, int(paused.get("attempt", 0)))
        return (state / rundir.CHECKPOINTS / rundir.RESUME).is_file()

    def record(self, epoch: int, lease: Lease, last_s: float, end: EndRecord) -> PauseRecord:
        """Return the attribute PAUSED of a trial whose worker has ended after `epoch`."""
        return {
            "epoch": epoch,
            "attempt": lease.attempt,
            "host": socket.gethostname(),
            "runs": str(self.folders.study),
            "last_s": round(last_s, 3),
            "end": end,
        }

    def drop_states(self, known: Sequence[KnownTrial], num_trials: int) -> None:
        """Remove what was written here for paused trials, but the state of one that may go on."""
        standings = [standing_of(each, self.direction) for each in known]
        needed = may_go_on(standings, self.rungs, num_trials)
        for each in known:
            if each.paused is None or not self._is_ours(each.paused):
                continue
            key = each.number, int(each.paused["attempt"])
            if each.number in needed or key in self._done:
                continue
            for folder in self.folders.attempts(each.number):
                attempt = folder.name.removeprefix(ATTEMPT).partition(".")[0]
                # a later one has been promoted meanwhile
                if attempt.isdecimal() and int(attempt) <= key[1]:
                    _drop(folder / rundir.CHECKPOINTS)
            self._done.add(key)

    def _is_ours(self, paused: PauseRecord) -> bool:
        is_here = paused.get("host") == socket.gethostname()
        return is_here and paused.get("runs") == str(self.folders.study)


def _drop(checkpoints: Path) -> None:
    """Remove a folder under another name: who moves it now gets all of it, or nothing."""
    aside = checkpoints.with_name(f"{checkpoints.name}.{os.urandom(8).hex()}.old")
    with contextlib.suppress(OSError):  # it is gone, or has gone on
        checkpoints.rename(aside)
        remove(aside)


def standing_of(
    known: KnownTrial, direction: Direction, here: Collection[int] | None = None
) -> Standing:
    """Return how far a trial is; `here` are those that may be gone on with, None any."""
    state = "paused" if known.paused is not None else _STATES[known.state]
    can_resume = here is None or known.number in here
    rising = tuple(map(direction.rising, known.values))
    return Standing(known.number, rising, state, can_resume)
