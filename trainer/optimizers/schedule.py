"""The learning rate of the moment, as a number and as what the optimizer reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from trainer import config as cfg


class LearningRate:
    """Follows the config's schedule and hands each epoch's rate to the optimizer.

    The schedule runs on a number of its own. A step that was captured as a CUDA graph reads its
    rate from a tensor on the device, which must stay the same one; multiplying that, as torch's
    schedulers do, would round to float32 at each epoch, and wait for the device to read it back.

    Args:
        config: the optimizer's section.
        optimizer: is given the rate now, and at each `advance`.
        tensor: give the optimizer a tensor on its parameters' device instead of a number.
    """

    def __init__(
        self, config: cfg.Optimizer, optimizer: torch.optim.Optimizer, *, tensor: bool = False
    ) -> None:
        self._optimizer = optimizer
        weight = optimizer.param_groups[0]["params"][0]
        self._tensor = torch.zeros((), device=weight.device) if tensor else None
        # What torch's schedulers want to see; it steps over nothing.
        self._stand_in = torch.optim.SGD([nn.Parameter(torch.empty(0))], lr=config.learning_rate)
        self._scheduler = build_scheduler(config.lr_scheduler, self._stand_in)
        self._hand_over()

    @property
    def value(self) -> float:
        """The rate of the epoch that comes, or runs."""
        return float(self._stand_in.param_groups[0]["lr"])

    def advance(self) -> None:
        """Go on to the next epoch's rate."""
        if self._scheduler is not None:
            self._stand_in.step()  # torch warns of a scheduler that steps before its optimizer
            self._scheduler.step()
            self._hand_over()

    def state_dict(self) -> dict[str, Any] | None:
        """Return where the schedule is; None without one."""
        return None if self._scheduler is None else self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from a state; to be called after the optimizer's own state is loaded."""
        if self._scheduler is not None and state is not None:
            self._scheduler.load_state_dict(state)
            self._stand_in.param_groups[0]["lr"] = self._scheduler.get_last_lr()[0]
        self._hand_over()

    def _hand_over(self) -> None:
        if self._tensor is not None:
            self._tensor.fill_(self.value)  # the number travels with the kernel: no wait
        for group in self._optimizer.param_groups:
            group["lr"] = self.value if self._tensor is None else self._tensor


def build_scheduler(
    config: cfg.Scheduler | None, optimizer: torch.optim.Optimizer
) -> lr_scheduler.LRScheduler | None:
    """Return the scheduler, to be stepped once at the end of each epoch, or None."""
    match config:
        case None:
            return None
        case cfg.StepScheduler():
            return lr_scheduler.StepLR(optimizer, config.step_size, config.gamma)
        case cfg.MultiStepScheduler():
            return lr_scheduler.MultiStepLR(optimizer, list(config.milestones), config.gamma)
        case cfg.ExponentialScheduler():
            return lr_scheduler.ExponentialLR(optimizer, config.gamma)
        case cfg.WarmupScheduler():
            return lr_scheduler.LinearLR(
                optimizer, config.start_factor, total_iters=config.num_epochs
            )
