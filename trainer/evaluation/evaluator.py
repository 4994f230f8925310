"""Evaluates a network on a set: loss, Dice of both kinds, predictions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.compute.device import exact_float32
from trainer.compute.memory import nothing_to_free, with_freed_memory
from trainer.compute.parallel import World
from trainer.evaluation.ownsize import OwnSize
from trainer.evaluation.predictions import Receiver, Write
from trainer.evaluation.tiles import blend_tiles
from trainer.loading.batches import Batch, Batches, size_of
from trainer.losses import LossFunction
from trainer.metrics.counts import SegmentationCounts, predict_classes
from trainer.metrics.records import Evaluation
from trainer.metrics.regression import RegressionCounts
from trainer.networks.forward import activate, forward_logits
from trainer.networks.network_module import NetworkModule
from trainer.networks.spec import Activation
from trainer.stopping import stop_if_requested

SECONDS_BETWEEN_BLOCKS = 0.5  # of lines of the log: to write them is to wait for the device


@dataclass
class _Tally:
    """What has been found so far, by this process and, once they are added, by the others.

    The loss is summed where it is computed, in float64: to read it is to wait for the device.
    """

    counts: SegmentationCounts | RegressionCounts | None
    own_counts: SegmentationCounts | None = None  # at the images' own size, beside the others
    loss_sum: Tensor | float = 0.0
    num_seen: int = 0
    has_loss: bool = False
    ended: list[tuple[int, int, Tensor | float]] = field(default_factory=list)

    def see(self, num_samples: int, loss: Tensor | None) -> None:
        self.num_seen += num_samples
        if loss is not None:
            self.loss_sum = self.loss_sum + loss.double() * num_samples
            self.has_loss = True

    def end_batch(self, number: int) -> None:
        """Remember what has been found up to here, for the batch's line in the log."""
        self.ended.append((number, self.num_seen, self.loss_sum))
        if self.counts is not None:
            self.counts.end_batch()

    def running(self) -> list[tuple[int, float | None, float | None]]:
        """Return number, loss and accuracy so far of batches that ended since the last call."""
        if not self.ended:
            return []
        # Together: to read each would be to wait for the device as often.
        sums = torch.stack([torch.as_tensor(loss) for *_, loss in self.ended]).tolist()
        losses = [total / num for total, (_, num, _) in zip(sums, self.ended, strict=True)]
        accuracies = self.counts.running_accuracies() if self.counts else [None] * len(losses)
        found = [
            (number, loss if self.has_loss else None, accuracy)
            for (number, _, _), loss, accuracy in zip(self.ended, losses, accuracies, strict=True)
        ]
        self.ended.clear()
        return found

    def __getstate__(self) -> dict[str, object]:
        """Return what processes send each other: numbers."""
        return {**self.__dict__, "loss_sum": float(self.loss_sum)}

    def add(self, other: _Tally) -> None:
        self.loss_sum = float(self.loss_sum) + float(other.loss_sum)
        self.num_seen += other.num_seen
        self.has_loss = self.has_loss or other.has_loss
        if self.counts is not None and other.counts is not None:
            self.counts.merge(other.counts)  # type: ignore[arg-type]  # of one kind
        if self.own_counts is not None and other.own_counts is not None:
            self.own_counts.merge(other.own_counts)

    def result(self) -> Evaluation:
        return Evaluation(
            loss=float(self.loss_sum) / self.num_seen if self.has_loss else None,
            counts=self.counts,
            scores=self.counts.scores() if self.counts else None,
            own_counts=self.own_counts,
            own_scores=self.own_counts.scores() if self.own_counts else None,
        )


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Everything that an evaluation needs besides the network's weights of the moment.

    Scores are always computed in float32 and without TF32, whatever precision trains, so that a
    saved model gives the recorded Dice again, on another device too. Counts and losses stay where
    they are computed until the last batch: nothing waits for the device before.
    """

    batches: Batches
    world: World
    activation: Activation
    loss: LossFunction | None
    new_counts: Callable[[], SegmentationCounts | RegressionCounts] | None
    log_batch: Callable[[int, int, int, float | None, float | None], None]
    # Only the last batch in so many seconds is logged; 0: all, in blocks.
    log_interval_s: float = 0.0
    # asked for memory that the training holds, where the evaluation has too little
    free_memory: Callable[[], bool] = nothing_to_free
    # Compares at the images' own size, in place of the network's, or beside it.
    own_size: OwnSize | None = None
    at_size: str = "network"
    # Of the outputs where there are no targets; None: the inputs', if the network's is coarser.
    output_size: tuple[int, ...] | None = None

    def run(
        self, network: NetworkModule, epoch: int, destination: Receiver | None = None
    ) -> Evaluation:
        """Evaluate every sample once, in order; write predictions where it is said where to.

        With several processes each line but the last is about the first one's images; what is
        returned is about all, and the same for all.
        """
        # Of several processes one alone must not begin again: they meet at each batch. Each does
        # its part of a batch again, see `_evaluate`.
        free = self.free_memory if self.world.size == 1 else nothing_to_free
        return with_freed_memory(lambda: self._run(network, epoch, destination), free)

    def _run(self, network: NetworkModule, epoch: int, destination: Receiver | None) -> Evaluation:
        network.eval()
        tally = self._new_tally()
        num_batches, last_lines = self.batches.num_in_order, time.monotonic()
        pause_s = self.log_interval_s or SECONDS_BETWEEN_BLOCKS
        opened: contextlib.AbstractContextManager[Write | None] = contextlib.nullcontext()
        if destination and self.world.is_first:
            opened = destination.open(self.batches.images.slices)
        with torch.inference_mode(), exact_float32(), opened as write:
            for number, batch in enumerate(self.batches.in_order(), 1):
                stop_if_requested()
                output = self._evaluate(network, batch, tally) if batch else None
                if destination:
                    parts = self.world.gather_to_first(self._named(batch, output))
                    for names, values in parts:
                        assert write is not None  # only the first process is given parts
                        write(names, values)
                if not self.world.is_first or number == num_batches:
                    continue  # the last line is about all processes
                tally.end_batch(number)
                if time.monotonic() - last_lines > pause_s:
                    last_lines = time.monotonic()
                    self._log_batches(epoch, tally)
            self._log_batches(epoch, tally)
        first, *others = self.world.gather(tally)
        for other in others:
            first.add(other)
        evaluation = replace(first.result(), at_size=self.at_size)
        accuracy = None if evaluation.scores is None else evaluation.scores.accuracy
        self.log_batch(epoch, num_batches, num_batches, evaluation.loss, accuracy)
        return evaluation

    def _new_tally(self) -> _Tally:
        if self.new_counts is None:
            return _Tally(None)
        own = self.new_counts() if self.at_size == "both" else None
        assert own is None or isinstance(own, SegmentationCounts)  # see OwnSize
        return _Tally(self.new_counts(), own)

    def _evaluate(self, network: NetworkModule, batch: Batch, tally: _Tally) -> Tensor:
        output, loss = with_freed_memory(lambda: self._compute(network, batch), self.free_memory)
        names = self._names(batch)
        counts, targets = tally.counts, batch.targets
        if targets is not None and isinstance(counts, RegressionCounts):
            counts.update(names, output, targets)
        elif targets is not None and isinstance(counts, SegmentationCounts):
            if self.own_size is None or tally.own_counts is not None:
                if targets.is_floating_point():
                    targets = (targets[:, 0] > 0.5).long()
                counts.update(names, predict_classes(output), targets)
            if self.own_size is not None:
                self.own_size.update(tally.own_counts or counts, [*batch.indices], output)
        tally.see(len(names), loss)
        return output

    def _compute(self, network: NetworkModule, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the network's output and the loss: what takes memory, and changes nothing."""
        logits = self._logits(network, batch)
        loss = None
        if batch.targets is not None and self.loss is not None:
            loss = self.loss(logits, batch.targets)
        return activate(logits, self.activation), loss

    def _logits(self, network: NetworkModule, batch: Batch) -> Tensor:
        images, inputs_NCHW = self.batches.images, batch.inputs_NCHW
        if images.tiles is None:
            size = size_of(inputs_NCHW, batch.targets)
            if batch.targets is None and self.output_size is not None:
                size = self.output_size
            return forward_logits(network, inputs_NCHW, size)
        size_HW = images.tiles.size
        return blend_tiles(
            lambda tiles_NCHW: forward_logits(network, tiles_NCHW, size_HW),
            inputs_NCHW,
            size_HW,
            overlap=images.tiles.overlap,
            batch_size=self.batches.block_batch_size,
        )

    def _names(self, batch: Batch) -> list[str]:
        return [self.batches.images.names[index] for index in batch.indices]

    def _named(
        self, batch: Batch | None, output_NCHW: Tensor | None
    ) -> tuple[list[str], list[NDArray[np.float32]]]:
        if batch is None or output_NCHW is None:
            return [], []
        values = [*output_NCHW.float().cpu().numpy()]
        slices = self.batches.images.slices
        if slices:
            chosen = [slices[index] for index in batch.indices]
            values = [entry.restore(v) for entry, v in zip(chosen, values, strict=True)]
        return self._names(batch), values

    def _log_batches(self, epoch: int, tally: _Tally) -> None:
        lines = tally.running()
        for number, loss, accuracy in lines[-1:] if self.log_interval_s else lines:
            self.log_batch(epoch, number, self.batches.num_in_order, loss, accuracy)
