"""Trains a network for one epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainer.batches import Batches
from trainer.errors import DivergedError
from trainer.losses import LossFunction
from trainer.memory import BatchFitter
from trainer.networks.forward import forward_logits
from trainer.networks.module import KerasModule
from trainer.optimizers import needs_closure
from trainer.parallel import World
from trainer.records import Step
from trainer.stopping import stop_if_requested

# Reading a loss waits for the GPU, so there only every so many steps; on a CPU it is free.
STEPS_BETWEEN_READS_CUDA = 20
SECONDS_BETWEEN_LINES = 2.0


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything that an epoch needs besides its number."""

    network: KerasModule
    batches: Batches
    loss: LossFunction
    optimizer: torch.optim.Optimizer
    precision: torch.dtype
    device: torch.device
    world: World
    fitter: BatchFitter
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
        pending: list[tuple[float, int, Tensor, Tensor]] = []
        losses: list[float] = []
        is_cuda = self.device.type == "cuda"
        read_every = STEPS_BETWEEN_READS_CUDA if is_cuda else 1
        data_s, last_line = 0.0, time.monotonic()
        epoch_started = mark = time.monotonic()
        for number, batch in enumerate(self.batches.shuffled(seed=self.seed, epoch=epoch), 1):
            stop_if_requested()
            data_s += time.monotonic() - mark
            assert batch.targets is not None  # a config without target_path does not train
            loss, norm = self._step(batch.inputs_NCHW, batch.targets, batch.share)
            pending.append((time.monotonic() - self.started, number, loss, norm))
            is_last = number == len(self.batches)
            if is_last or number % read_every == 0:
                steps = self._read(pending, epoch)
                losses.extend(step.loss for step in steps)
                pending.clear()
                if is_last or time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                    last_line = time.monotonic()
                    elapsed = max(last_line - epoch_started, 1e-9)
                    self.log_batch(len(self.batches), steps[-1], data_s / elapsed)
            mark = time.monotonic()
        self.world.average_batch_statistics(self.network)
        return math.fsum(losses) / len(losses)

    def _step(self, inputs_NCHW: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
        num_samples = len(inputs_NCHW)

        def in_pieces(size: int) -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            pieces = zip(torch.split(inputs_NCHW, size), torch.split(targets, size), strict=True)
            # Parts of different sizes add up to the mean over the whole batch.
            losses = [
                self._backward(*piece, share * len(piece[0]) / num_samples) for piece in pieces
            ]
            return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

        def compute() -> Tensor:
            return self.fitter.compute(num_samples, in_pieces)

        loss = self.world.sum_gradients(self.network, compute())
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if needs_closure(self.optimizer):
            self.optimizer.step(compute)  # type: ignore[arg-type]  # L-BFGS wants the tensor
        else:
            self.optimizer.step()
        return loss, norm

    def _backward(self, inputs_NCHW: Tensor, targets: Tensor, share: float) -> Tensor:
        with torch.autocast(
            self.device.type, self.precision, enabled=self.precision != torch.float32
        ):
            logits = forward_logits(self.network, inputs_NCHW, tuple(inputs_NCHW.shape[2:]))
        loss = self.loss(logits, targets)
        if share != 1.0:
            loss = loss * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _read(self, pending: list[tuple[float, int, Tensor, Tensor]], epoch: int) -> list[Step]:
        values = torch.stack([torch.stack((loss, norm)) for _, _, loss, norm in pending]).tolist()
        steps = [
            Step(time_s, epoch, batch, loss, norm)
            for (time_s, batch, _, _), (loss, norm) in zip(pending, values, strict=True)
        ]
        self.record(steps)
        for step in steps:
            if not math.isfinite(step.loss):
                raise DivergedError(
                    f"the loss is {step.loss} at epoch {epoch}, batch {step.batch}; try a smaller "
                    "optimizer.learning_rate"
                )
        return steps
