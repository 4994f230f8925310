"""The config of one run: the contract's `neural_network` object, checked before anything runs.

Every key of the contract is known here; one that this version does not carry out is refused by
name, never ignored. No torch here: the driver validates each trial's config with this package.

base.py (what a section is) -> optimizers.py, loss.py, data.py (one section each) -> network.py
(the whole object) -> load.py (from a file), settings.py (as a flat list).
"""

from trainer.config.base import (
    Finite,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    SizeHW,
)
from trainer.config.data import (
    Data,
    IntensityJitter,
    Normalize,
    RandomPatches,
    Tiles,
    Transform,
)
from trainer.config.load import load_config, parse_config
from trainer.config.loss import LOSSES, Loss, known_losses
from trainer.config.network import (
    EXTENSIONS,
    PLUGIN_NETWORK,
    Checkpoints,
    Metrics,
    NeuralNetwork,
)
from trainer.config.optimizers import (
    LAMB,
    LARS,
    OPTIMIZERS,
    SCHEDULERS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    ExponentialScheduler,
    Hessian,
    MultiStepScheduler,
    Optimizer,
    RMSprop,
    Scheduler,
    StepScheduler,
    WarmupScheduler,
)
from trainer.config.settings import settings_of
from trainer.config.slicers import Slicer

__all__ = [
    "EXTENSIONS",
    "LAMB",
    "LARS",
    "LOSSES",
    "OPTIMIZERS",
    "PLUGIN_NETWORK",
    "SCHEDULERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Checkpoints",
    "Data",
    "ExponentialScheduler",
    "Finite",
    "Fraction",
    "Hessian",
    "IntensityJitter",
    "Loss",
    "Metrics",
    "MultiStepScheduler",
    "NeuralNetwork",
    "NonNegativeFloat",
    "Normalize",
    "Optimizer",
    "PositiveFloat",
    "PositiveInt",
    "RMSprop",
    "RandomPatches",
    "Scheduler",
    "Section",
    "SizeHW",
    "Slicer",
    "StepScheduler",
    "Tiles",
    "Transform",
    "WarmupScheduler",
    "known_losses",
    "load_config",
    "parse_config",
    "settings_of",
]
