"""Class weights from how often each class occurs."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.config import Loss


def inverse_frequency_weights(counts: Sequence[int], power: float) -> tuple[float, ...]:
    """Return count^-power, divided by the mean, for each class.

    A class without a pixel has no frequency: it weighs 1, and is left out of the mean.
    """
    raw = [count**-power if count > 0 else None for count in counts]
    present = [value for value in raw if value is not None]
    mean = sum(present) / len(present) if present else 1.0
    return tuple(1.0 if value is None else value / mean for value in raw)


def resolve_weights(config: Loss, pixel_counts: Sequence[int]) -> Loss:
    """Return the config with numbers in the place of "inverse_frequency^p".

    Args:
        config: the loss section; returned as it is where its weights are numbers, or absent.
        pixel_counts: pixels of each class in the training targets; two with one channel.
    """
    power = config.weight_power
    if power is None:
        return config
    return config.model_copy(update={"weight": inverse_frequency_weights(pixel_counts, power)})
