"""Evaluates a network on a set: loss, Dice of both kinds, predictions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.batches import Batches
from trainer.fit import Activation
from trainer.losses import LossFunction
from trainer.metrics import Scores, SegmentationCounts, predict_classes
from trainer.networks.module import KerasModule
from trainer.predictions import PredictionWriter

SECONDS_BETWEEN_LINES = 2.0


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a set found; no loss without a loss function, no scores without masks."""

    loss: float | None
    counts: SegmentationCounts | None
    scores: Scores | None


def activate(logits_NCHW: Tensor, activation: Activation) -> Tensor:
    """Return the network's output for its logits; log_softmax gives log-probabilities."""
    match activation:
        case "sigmoid":
            return logits_NCHW.sigmoid()
        case "softmax":
            return logits_NCHW.softmax(1)
        case "log_softmax":
            return logits_NCHW.log_softmax(1)
        case "linear":
            return logits_NCHW


def forward_logits(network: KerasModule, inputs_NCHW: Tensor, size_HW: tuple[int, ...]) -> Tensor:
    """Run the network up to its last activation, enlarged to the masks' size where coarser."""
    logits = network.logits(inputs_NCHW)
    if tuple(logits.shape[2:]) != tuple(size_HW):
        logits = F.interpolate(logits.float(), size=size_HW, mode="bilinear", align_corners=False)
    return logits


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Everything that an evaluation needs besides the network's weights of the moment.

    Scores are always computed in float32, whatever precision trains, so that a saved model gives
    the recorded Dice again.
    """

    batches: Batches
    activation: Activation
    loss: LossFunction | None
    new_counts: Callable[[], SegmentationCounts] | None
    log_batch: Callable[[int, int, int, float | None, Scores | None], None]

    def run(
        self, network: KerasModule, epoch: int, output_folder: Path | None = None
    ) -> Evaluation:
        """Evaluate every sample once, in order; write predictions where a folder is given."""
        network.eval()
        counts = self.new_counts() if self.new_counts else None
        size_HW = self.batches.images.input_shape[:2]
        loss_sum, num_seen, last_line = 0.0, 0, time.monotonic()
        writer = PredictionWriter(output_folder) if output_folder else None
        with torch.inference_mode(), writer or contextlib.nullcontext():
            for number, batch in enumerate(self.batches.in_order(), 1):
                logits = forward_logits(network, batch.inputs_NCHW, size_HW)
                output = activate(logits, self.activation)
                names = [self.batches.images.names[index] for index in batch.indices]
                if writer:
                    writer.write(names, output.float().cpu().numpy())
                if batch.targets is not None and self.loss is not None:
                    # .item() waits for the GPU: once per batch of an evaluation is cheap
                    loss_sum += self.loss(logits, batch.targets).item() * len(names)
                if batch.targets is not None and counts is not None:
                    targets = batch.targets
                    if targets.is_floating_point():
                        targets = (targets[:, 0] > 0.5).long()
                    counts.update(names, predict_classes(output), targets)
                num_seen += len(names)
                is_last = number == len(self.batches)
                if is_last or time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                    last_line = time.monotonic()
                    loss = loss_sum / num_seen if self.loss and counts else None
                    scores = counts.scores() if counts else None
                    self.log_batch(epoch, number, len(self.batches), loss, scores)
        has_loss = self.loss is not None and counts is not None
        return Evaluation(
            loss=loss_sum / num_seen if has_loss else None,
            counts=counts,
            scores=counts.scores() if counts else None,
        )
