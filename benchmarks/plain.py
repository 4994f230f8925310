"""The plain PyTorch loop that ours is compared with: written as one does who wants it fast.

bfloat16 by autocast on a GPU (float32 on a CPU), channels-last, fused Adam, nothing read back in
a step. The network is ours, with torch's own running variances: one kernel a BatchNormalization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import torch
from pairs import Pairs
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainer.config import Loss
from trainer.losses import build_loss
from trainer.networks import network_json, parse_network
from trainer.networks.module import build_module
from trainer.networks.torch_layers.normalization import TorchBatchNorm

Batches = Iterable[tuple[Tensor, Tensor]]


class PlainLoop:
    """A network with its optimizer; `train` is one epoch."""

    def __init__(
        self, network: str, size: int, device: torch.device, *, loss: str, learning_rate: float
    ) -> None:
        torch.manual_seed(0)
        shape = (size, size, 3)
        module = build_module(parse_network(network_json(network, shape, 1), network), shape)
        self.network: nn.Module = module.to(device, memory_format=torch.channels_last)
        for layer in self.network.modules():
            if isinstance(layer, TorchBatchNorm):
                layer.is_corrected_later = True  # never: as torch.nn.BatchNorm2d
        self._logits: Callable[[Tensor], Tensor] = module.logits
        self._optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)
        self._loss = build_loss(Loss.model_validate({"function": loss}), "sigmoid", 1)
        self._device = device

    def train(self, batches: Batches) -> float:
        """Train on every batch once and return the mean loss."""
        self.network.train()
        total, number = torch.zeros((), device=self._device), 0
        for inputs, targets in batches:
            self._optimizer.zero_grad(set_to_none=True)
            kind = self._device.type
            with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
                logits = self._logits(inputs)
            loss = self._loss(logits, targets)
            loss.backward()
            self._optimizer.step()
            total += loss.detach()
            number += 1
        return float(total) / number  # waits for the device, once an epoch

    @torch.inference_mode()
    def dice(self, inputs_NCHW: Tensor, targets: Tensor, batch_size: int) -> float:
        """Return the Dice of all images together, in float32 as torch has it (TF32 on a GPU)."""
        self.network.eval()
        both, sums = (torch.zeros((), device=self._device) for _ in range(2))
        pairs = zip(inputs_NCHW.split(batch_size), targets.split(batch_size), strict=True)
        for inputs, truth in pairs:
            predicted = self._logits(inputs)[:, 0] > 0
            both += (predicted & (truth > 0)).sum()
            sums += predicted.sum() + truth.sum()
        return float(2 * both / sums)


def resident(
    inputs_NCHW: Tensor, targets: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, ...]]:
    """Give batches in a random order, of a set that lies on the device."""
    order = torch.randperm(len(inputs_NCHW), device=inputs_NCHW.device)
    for chosen in order.split(batch_size):
        yield inputs_NCHW[chosen], targets[chosen]


class Loader:
    """Batches from a DataLoader whose workers decode the images in each epoch."""

    def __init__(
        self, folder: Path, size: int, batch_size: int, device: torch.device, num_workers: int
    ) -> None:
        self._device = device
        self._loader = DataLoader(
            Pairs(folder, size),
            batch_size=batch_size,
            shuffle=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=_one_thread,
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in self._loader:
            inputs = inputs.to(self._device, non_blocking=True)
            yield (
                inputs.contiguous(memory_format=torch.channels_last),
                targets.to(self._device, non_blocking=True),
            )


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(0)
