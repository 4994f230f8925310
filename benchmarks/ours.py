"""Our own training and evaluation of a config, put together as `trainer/commands/run.py` does.

Without logs, checkpoints and a resumed state: what is left are steps and evaluation batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from trainer.compute.device import choose_precision
from trainer.compute.memory import BatchFitter
from trainer.compute.parallel import ALONE
from trainer.config import NeuralNetwork
from trainer.data.dataset import Resolve
from trainer.data.imageset import LoadedData
from trainer.evaluation.evaluator import Evaluator
from trainer.loading.batches import Batches
from trainer.losses import build_loss
from trainer.metrics.counts import SegmentationCounts
from trainer.networks import check_network
from trainer.networks.module import KerasModule, build_module
from trainer.optimizers import build_optimizer
from trainer.optimizers.schedule import LearningRate
from trainer.setup.adapt import load_graph, with_range
from trainer.setup.fit import resolve_activation
from trainer.training.capture import captured, recorder_on
from trainer.training.epoch import Trainer
from trainer.training.step import TrainingStep


@dataclass(frozen=True)
class Ours:
    """What trains and evaluates one config.

    Attributes:
        step: the eager one, also where the trainer's is captured.
    """

    network: KerasModule
    step: TrainingStep
    trainer: Trainer
    evaluator: Evaluator | None


def compose(
    config: NeuralNetwork,
    data: LoadedData,
    resolve: Resolve,
    device: torch.device,
    log: Callable[[str], None],
) -> Ours:
    """Build the network of a config with what trains it; to be called in a `compute_stream`."""
    torch.manual_seed(config.seed)
    data = with_range(config, data, None)
    assert data.train is not None
    assert config.loss is not None
    shape = data.train.input_shape
    graph = load_graph(config, resolve, shape, data.coding)
    facts = check_network(graph, shape)
    num_channels = facts.output_shape[-1]
    network = build_module(graph, shape).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = partial(Batches, device=device, continuous=False)
    recorder = recorder_on(device)
    optimizer = build_optimizer(
        config.optimizer, network.parameters(), capturable=recorder is not None
    )
    LearningRate(config.optimizer, optimizer, tensor=recorder is not None)
    activation = resolve_activation(config, facts)
    loss = build_loss(config.loss, activation, num_channels)
    step = TrainingStep(
        network=network,
        batches=batches(data.train, batch_size=config.data.batch_size),
        loss=loss,
        optimizer=optimizer,
        precision=choose_precision(config.precision, device),
        world=ALONE,
        fitter=BatchFitter(config.data.batch_size, 1, False, list, log),
    )
    trainer = Trainer(
        network=network,
        batches=step.batches,
        step=captured(step, recorder, log, wanted=config.cuda_graph),
        device=device,
        world=ALONE,
        seed=config.seed,
        started=time.monotonic(),
        record=lambda steps: None,
        log_batches=lambda *line: None,
    )
    evaluator = None
    if data.test is not None:
        evaluator = Evaluator(
            batches=batches(data.test, batch_size=config.data.test_batch_size),
            world=ALONE,
            activation=activation,
            loss=loss,
            new_counts=lambda: SegmentationCounts(num_channels, None),
            log_batch=lambda *line: None,
        )
    return Ours(network, step, trainer, evaluator)
