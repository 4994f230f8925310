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

SECONDS_BETWEEN_BLOCKS = 0.5  # of lines of the log


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything that an epoch needs besides its number.

    Attributes:
        step: carries one out and returns loss and norm of the gradient, on the device.
        log_batches: given the number of batches, and steps with the share of their time that went
            into making the batch.
        log_interval_s: only the last step in so many seconds is logged; 0: all, in blocks.
    """

    network: NetworkModule
    batches: Batches
    step: Callable[[BatchSelection], Tensor]
    device: torch.device
    world: World
    seed: int
    started: float
    record: Callable[[list[Step]], None]
    log_batches: Callable[[int, list[tuple[Step, float]]], None]
    log_interval_s: float = 0.0

    def run_epoch(self, epoch: int) -> float:
        """Train on every sample once and return the mean loss.

        Raises:
            DivergedError: the loss is NaN or infinite; the message names the step.
        """
        self.network.train()
        if self.world.rank > 0:  # dropout masks of its own, and the same ones when resumed
            seeds = np.random.SeedSequence([self.seed, epoch, self.world.rank])
            torch.manual_seed(int(seeds.generate_state(1)[0]))
        readings: Readback[tuple[float, int, float]] = Readback(self.device, NUM_FIGURES)
        losses: list[float] = []
        lines: list[tuple[Step, float]] = []
        last_lines = began = time.monotonic()
        for number, picked in enumerate(self.batches.epoch(seed=self.seed, epoch=epoch), 1):
            stop_if_requested()
            made = time.monotonic()
            figures = self.step(picked)
            ended = time.monotonic()
            data_share = (made - began) / max(ended - began, 1e-9)
            readings.add((made - self.started, number, data_share), figures)
            is_last = number == len(self.batches)
            found = [
                (Step(time_s, epoch, batch, *values), share)
                for (time_s, batch, share), values in readings.arrived(all_of_them=is_last)
            ]
            lines += found
            try:
                self._record([step for step, _ in found])
            except DivergedError:
                self.log_batches(len(self.batches), lines)
                raise
            losses.extend(step.loss for step, _ in found)
            pause_s = self.log_interval_s or SECONDS_BETWEEN_BLOCKS
            if lines and (is_last or time.monotonic() - last_lines > pause_s):
                last_lines = time.monotonic()
                self.log_batches(len(self.batches), lines[-1:] if self.log_interval_s else lines)
                lines = []
            began = ended
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
