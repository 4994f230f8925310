"""A user's own loss: a function of probabilities and one-hot targets, by its name."""

from __future__ import annotations

from torch import Tensor

from trainer.compute.memory import is_shortage
from trainer.config import Loss
from trainer.errors import ConfigError, TrainerError
from trainer.losses.common import Batch, Term, probabilities
from trainer.networks.spec import Activation
from trainer.plugins import LOSSES_GROUP, describe, describe_plugin, load_plugin


def plugin_term(config: Loss, activation: Activation) -> Term:
    """Return the plug-in that `loss.function` names as a term like our own.

    Raises:
        ConfigError: it cannot be loaded, or the config weights what it does not know of.
    """
    for key in ("weight", "ignore_index"):
        if getattr(config, key) is not None:
            raise ConfigError(
                f"loss.{key}: has no effect on the plug-in {config.function!r}; leave it out"
            )
    function = load_plugin(LOSSES_GROUP, config.function)
    name = describe_plugin(LOSSES_GROUP, config.function)

    def term(batch: Batch) -> Tensor:
        try:
            value = function(probabilities(batch.logits_NCS, activation), batch.target_NCS)
        except TrainerError:
            raise
        except Exception as error:
            if is_shortage(error):
                raise
            raise ConfigError(f"loss.function: plug-in {name}: {describe(error)}") from error
        if not isinstance(value, Tensor) or value.ndim != 0:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"loss.function: plug-in {name}: expected a scalar tensor, received {shape}"
            )
        return value

    return term
