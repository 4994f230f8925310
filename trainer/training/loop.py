"""Runs the epochs of a training: train, evaluate, hand the results to the writer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.compute.memory import BatchFitter
from trainer.config import NeuralNetwork
from trainer.errors import ConfigError, DivergedError
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.predictions import Destination
from trainer.figures import figure_of
from trainer.log import Log
from trainer.metrics.records import Evaluation, Step
from trainer.output.checkpoints import weights_content
from trainer.output.files import EvaluationRecord, OutputFiles
from trainer.output.log_lines import log_evaluation
from trainer.output.resume import Pace, StateKeeper, Training, state_path
from trainer.output.writer import EpochOutput, Writer
from trainer.rundir import USED
from trainer.training.epoch import Trainer


@dataclass(frozen=True, kw_only=True)
class EpochLoop:
    """All that the epochs need.

    Attributes:
        make_trainer: makes the trainer, given what its steps are told to.
        destination: where the last evaluation's predictions go.
        is_first: whether this process is the one that writes.
        used: the settings that this run trains with, which the first epoch's metrics say.
        started: `time.monotonic()` at the run's start.
    """

    config: NeuralNetwork
    log: Log
    training: Training
    make_trainer: Callable[[Callable[[list[Step]], None]], Trainer]
    fitter: BatchFitter
    evaluator: Evaluator | None
    destination: Destination | None
    device: torch.device
    is_first: bool
    used: Mapping[str, Any]
    started: float

    def run(self, files: OutputFiles, num_done: int) -> None:
        """Run the epochs that are left; return when all their results are on the disk."""
        keeper, settings = self.training.keeper, self.config.checkpoints
        last = min(self.config.num_epochs, settings.pause_after or self.config.num_epochs)
        is_done = last == self.config.num_epochs
        if self.is_first:
            keeper.remove_leftovers(num_done)
        with Writer(
            files,
            state_path(self.config),
            self.device,
            keeps_one=keeper.keeps_one,
            kept=keeper.kept,
            writes_last_state=settings.resume_when_done or not is_done,
        ) as writer:

            def record(steps: list[Step]) -> None:
                writer.raise_failure()  # not only when the epoch ends
                files.add_steps(steps)

            trainer = self.make_trainer(record)
            free_others = self.fitter.free
            self.fitter.free = lambda: any([writer.free_device_memory(), free_others()])
            states, pace = StateKeeper(self.training, self.config, self.started), Pace()
            for epoch in range(num_done + 1, last + 1):
                train_loss = trainer.run_epoch(epoch)
                self.log.rule()
                evaluation = self._evaluate(epoch)
                extra: dict[str, Any] = {
                    "train_loss": train_loss,
                    "learning_rate": self.training.learning_rate.value,
                }
                if self.fitter.piece is not None:
                    extra["samples_at_once"] = self.fitter.piece
                if epoch == 1:  # a run that goes on has it from the one before
                    extra[USED] = self.used
                self._advance_learning_rate()
                if self.is_first:
                    time_s = time.monotonic() - self.started
                    record_of_epoch = EvaluationRecord.of(epoch, time_s, evaluation, extra)
                    try:
                        checkpoint = self._checkpoint(epoch, evaluation)  # the state names it
                    except ConfigError:  # the metrics say what there is instead
                        writer.put(EpochOutput(record=record_of_epoch))
                        raise
                    output = EpochOutput(
                        checkpoint=checkpoint,
                        record=record_of_epoch,
                        state=states.content(epoch),
                        is_state_due=pace.is_due(writer.state_cost_s),
                    )
                    writer.put(output)

    def _evaluate(self, epoch: int) -> Evaluation | None:
        if self.evaluator is None:
            return None
        destination = self.destination if epoch == self.config.num_epochs else None
        evaluation = self.evaluator.run(self.training.network, epoch, destination)
        if evaluation.loss is not None and not math.isfinite(evaluation.loss):
            raise DivergedError(
                f"the loss is {evaluation.loss} in the evaluation after epoch {epoch}; "
                "try a smaller optimizer.learning_rate"
            )
        log_evaluation(self.log, evaluation)
        self.log.rule()
        return evaluation

    def _advance_learning_rate(self) -> None:
        learning_rate, settings = self.training.learning_rate, self.config.optimizer.lr_scheduler
        learning_rate.advance()
        if settings and settings.verbose:
            self.log(f"Learning rate: {learning_rate.value:.6g}")

    def _checkpoint(
        self, epoch: int, evaluation: Evaluation | None
    ) -> tuple[Path, dict[str, Any]] | None:
        scores = evaluation.scores if evaluation else None
        best_by = self.config.checkpoints.best_by
        if scores is None:
            value = None
        elif best_by is None:
            # As the test log writes it: a driver must not want an epoch that a difference in a
            # later digit has replaced.
            value = round(scores.accuracy, 9)
        else:
            entry = {"epoch": epoch, **scores.as_json()}
            worst = self.training.keeper.worst
            value = figure_of(entry, best_by, "checkpoints.best_by", worst)
        path = self.training.keeper.after_epoch(epoch, value)
        if path is None:
            return None
        content = weights_content(
            self.training.network,
            epoch=epoch,
            intensity_range=self.training.intensity_range,
            mask_resize=self.config.data.mask_resize,
            rotate_direction=self.config.data.rotate_direction,
        )
        return path, content
