"""Trains a network for one epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.compute.parallel import World
from trainer.errors import DivergedError
from trainer.loading.batches import Batches, BatchSelection
from trainer.metrics.records import Step
from trainer.networks.network_module import NetworkModule
from trainer.stopping import stop_if_requested
from trainer.training.readback import Readback
from trainer.training.step import NUM_FIGURES

SECONDS_BETWEEN_LINES = 2.0


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything that an epoch needs besides its number.

    Attributes:
        step: carries one out and returns loss and norm of the gradient, on the device.
    """

    network: NetworkModule
    batches: Batches
    step: Callable[[BatchSelection], Tensor]
    device: torch.device
    world: World
    seed: int
    started: float
    record: Callable[[list[Step]], None]
    log_batch: Callable[[int, Step, float], None]

    def run_epoch(self, epoch: int) -> float:
        """Train on every sample once and return the mean loss.

        Raises:
            DivergedError: the loss is NaN or infinite; the message names the step.
        """
        self.network.train()
        if self.world.rank > 0:  # dropout masks of its own, and the same ones when resumed
            seeds = np.random.SeedSequence([self.seed, epoch, self.world.rank])
            torch.manual_seed(int(seeds.generate_state(1)[0]))
        readings: Readback[tuple[float, int]] = Readback(self.device, NUM_FIGURES)
        losses: list[float] = []
        data_s, last_line = 0.0, time.monotonic()
        epoch_started = mark = time.monotonic()
        for number, picked in enumerate(self.batches.epoch(seed=self.seed, epoch=epoch), 1):
            stop_if_requested()
            data_s += time.monotonic() - mark
            readings.add((time.monotonic() - self.started, number), self.step(picked))
            is_last = number == len(self.batches)
            steps = [
                Step(time_s, epoch, batch, *figures)
                for (time_s, batch), figures in readings.arrived(all_of_them=is_last)
            ]
            self._record(steps)
            losses.extend(step.loss for step in steps)
            if steps and (is_last or time.monotonic() - last_line > SECONDS_BETWEEN_LINES):
                last_line = time.monotonic()
                elapsed = max(last_line - epoch_started, 1e-9)
                self.log_batch(len(self.batches), steps[-1], data_s / elapsed)
            mark = time.monotonic()
        self.world.average_batch_statistics(self.network)
        return math.fsum(losses) / len(losses)

    def _record(self, steps: list[Step]) -> None:
        self.record(steps)
        for step in steps:
            if not math.isfinite(step.loss):
                raise DivergedError(
                    f"the loss is {step.loss} at epoch {step.epoch}, batch {step.batch}; try a "
                    "smaller optimizer.learning_rate"
                )
