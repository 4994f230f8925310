"""Carries out one step of training: batch, forward, loss, backward, update."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from trainer.compute.memory import BatchFitter
from trainer.compute.parallel import World
from trainer.loading.batches import Batch, Batches, BatchSelection, size_of
from trainer.losses import LossFunction
from trainer.networks.forward import forward_logits
from trainer.networks.network_module import NetworkModule
from trainer.networks.torch_layers.normalization import RunningStatistics, RunningVariances
from trainer.optimizers import needs_closure

NUM_FIGURES = 2  # of each step: loss and norm of the gradient


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """All that a step needs besides its samples."""

    network: NetworkModule
    batches: Batches
    loss: LossFunction
    optimizer: torch.optim.Optimizer
    precision: torch.dtype
    world: World
    fitter: BatchFitter
    _variances: RunningVariances = field(init=False)
    _statistics: RunningStatistics = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_variances", self.network.running_variances())
        object.__setattr__(self, "_statistics", RunningStatistics(self.network))

    def __call__(self, picked: BatchSelection) -> Tensor:
        """Return loss and norm of the gradient, (2,), which stay on the device.

        Raises:
            OutOfMemoryError: see `BatchFitter`, which may compute the batch in pieces.
        """
        batch = self.batches.make(picked)

        def compute() -> Tensor:
            self._statistics.keep()
            return self.fitter.compute(
                len(picked), partial(self._gradients, batch), self._statistics.bring_back
            )

        loss = self.world.sum_gradients(self.network, compute())
        norm = self._gradient_norm()
        if needs_closure(self.optimizer):
            self.optimizer.step(compute)  # type: ignore[arg-type]  # L-BFGS wants the tensor
        else:
            self.optimizer.step()
        return torch.stack((loss, norm))

    def whole(self, picked: BatchSelection) -> Tensor:
        """Do the same without asking the host anything on the way: what a graph repeats."""
        loss = self._gradients(self.batches.make(picked), len(picked))
        norm = self._gradient_norm()
        self.optimizer.step()
        return torch.stack((loss, norm))

    def forget_gradients(self) -> None:
        """Free them."""
        self.optimizer.zero_grad(set_to_none=True)

    def _gradients(self, batch: Batch, size: int) -> Tensor:
        """Set gradients, computed on so many samples at once, and return the batch's loss."""
        self.forget_gradients()
        assert batch.targets is not None  # a config without target_path does not train
        num_samples = len(batch.inputs_NCHW)
        pieces = zip(
            torch.split(batch.inputs_NCHW, size), torch.split(batch.targets, size), strict=True
        )
        # Parts of different sizes add up to the mean over the whole batch.
        losses = [
            self._backward(*piece, batch.share * len(piece[0]) / num_samples) for piece in pieces
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _backward(self, inputs_NCHW: Tensor, targets: Tensor, share: float) -> Tensor:
        with self._variances.corrected():
            with torch.autocast(
                inputs_NCHW.device.type, self.precision, enabled=self.precision != torch.float32
            ):
                logits = forward_logits(self.network, inputs_NCHW, size_of(inputs_NCHW, targets))
            loss = self.loss(logits, targets)
            if share != 1.0:
                loss = loss * share
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)
