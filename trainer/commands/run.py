"""Carries out one config: reads the data, builds the network, trains, evaluates, predicts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.compute.device import choose_precision, compute_stream
from trainer.compute.memory import BatchFitter, nothing_to_free
from trainer.compute.parallel import ALONE, World
from trainer.config import Hessian, NeuralNetwork, settings_of
from trainer.data.dataset import Resolve, load_data
from trainer.data.imageset import ImageSet, LoadedData
from trainer.data.intensity import IntensityRange
from trainer.data.labels import LabelCoding
from trainer.errors import ConfigError, DataError
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.ownsize import OwnSize
from trainer.evaluation.predictions import Destination
from trainer.loading.augment import channels_last
from trainer.loading.batches import Batches
from trainer.log import Log
from trainer.losses import build_loss
from trainer.metrics.counts import SegmentationCounts
from trainer.metrics.plugin_metrics import best_direction, worst_figure
from trainer.metrics.regression import RegressionCounts
from trainer.networks import NetworkFacts
from trainer.networks.blueprint import make_blueprint
from trainer.networks.network_module import NetworkModule
from trainer.networks.spec import Activation
from trainer.networks.weights import load_weights
from trainer.optimizers import build_optimizer, needs_closure, settings_in_use
from trainer.optimizers.schedule import LearningRate
from trainer.output.checkpoints import CheckpointKeeper
from trainer.output.files import EvaluationRecord, OutputFiles, write_network_graph
from trainer.output.log_lines import (
    log_data,
    log_device,
    log_eval_batch,
    log_evaluation,
    log_network,
    log_train_batches,
    log_training,
    log_used,
)
from trainer.output.resume import Training, read_state, restore
from trainer.output.state import State
from trainer.setup.adapt import (
    load_graph,
    output_size,
    wanted_arrays,
    with_ignored_padding,
    with_numeric_weights,
    with_range,
    with_scoring_rules,
)
from trainer.setup.fit import check_fit, is_regression, resolve_activation
from trainer.training.capture import captured, recorder_on
from trainer.training.epoch import Trainer
from trainer.training.loop import EpochLoop
from trainer.training.step import TrainingStep


def run(config: NeuralNetwork, config_dir: Path, log: Log, world: World = ALONE) -> None:
    """Do what a config asks for.

    Args:
        config: the checked config.
        config_dir: the folder of its file, where relative paths are looked for that lead nowhere
            from the current folder.
        log: where the contract's log lines go.
        world: the processes that do it together.

    Raises:
        TrainerError: see `trainer.errors` for the kinds and their exit codes.
    """
    started = time.monotonic()
    _check_parallel(config, world)
    device = world.connect(config.device)
    precision = choose_precision(config.precision, device)
    torch.manual_seed(config.seed)
    log(f"RocketML : {world.size} MPI process{'es' if world.size > 1 else ''}")
    log_device(log, device, precision, config.seed, world)
    resolve = Resolve.of(config, config_dir)
    config = with_scoring_rules(config, resolve, log)
    data = load_data(config.data, resolve, log, wanted_arrays(config, resolve))
    config = with_ignored_padding(config, data)
    images = data.train or data.test
    assert images is not None  # the config has one of the two
    description = load_graph(config, resolve, images.input_shape, data.coding)
    blueprint = make_blueprint(description, images.input_shape)
    parts = filter(None, (data.train, data.test))
    for shape in dict.fromkeys(shape for part in parts for shape in part.input_shapes):
        if shape != images.input_shape:
            blueprint.check(shape)
    facts = blueprint.facts
    activation = resolve_activation(config, facts)
    if data.coding is not None:
        check_fit(facts, data.coding, config, images.input_shape[:-1], images.target_size)
    network = blueprint.build()
    log_network(log, facts, network, activation)
    for note in blueprint.notes:
        log(f"note: {note}")
    if config.debug and world.is_first and blueprint.dot is not None:
        path = write_network_graph(config.outfile, blueprint.dot())
        log(f"Network graph: {path}")
    stored = None
    if config.checkpoints.load is not None:
        path, partial = resolve(config.checkpoints.load), config.checkpoints.allow_partial
        report = load_weights(network, description, path, log, allow_partial=partial)
        stored = IntensityRange.of_checkpoint(report.intensity_range)
    data = with_range(config, data, stored)
    config = with_numeric_weights(config, data, max(2, facts.output_shape[-1]))
    network.place(device, _memory_format(config, len(images.input_shape) - 1))
    if config.is_training:
        log_training(log, config)
    log_data(log, config, data, world)
    if config.is_training and data.coding is not None and data.coding.is_single_valued:
        raise DataError("every mask holds one value only: there is nothing to segment")
    world.copy_from_first(network)
    with compute_stream(device):
        _Run(
            config, log, world, device, precision, data, facts, activation, network, started
        ).carry_out()


def _check_parallel(config: NeuralNetwork, world: World) -> None:
    if world.size > 1 and config.is_training and isinstance(config.optimizer, Hessian):
        raise ConfigError(
            "optimizer.type: Hessian searches along a line with one process only, and here are "
            f"{world.size}; start rmldnn without mpirun or torchrun, or choose another optimizer"
        )


def _memory_format(config: NeuralNetwork, rank: int) -> torch.memory_format:
    # L-BFGS flattens weights and gradients by view(), which channels-last ones don't allow.
    is_flattened = config.is_training and isinstance(config.optimizer, Hessian)
    return torch.contiguous_format if is_flattened else channels_last(rank)


@dataclass(frozen=True)
class _Run:
    config: NeuralNetwork
    log: Log
    world: World
    device: torch.device
    precision: torch.dtype
    data: LoadedData
    facts: NetworkFacts
    activation: Activation
    network: NetworkModule
    started: float

    def carry_out(self) -> None:
        state = read_state(self.config) if self.config.is_training else None
        num_done = state.epoch if state else 0
        if len(set(self.world.gather(num_done))) > 1:
            raise ConfigError("checkpoints.save: not the same folder for all processes")
        outfile = self.config.outfile if self.world.is_first else None
        trains = self.config.is_training
        with OutputFiles.open(outfile, keep_epochs=num_done, trains=trains) as files:
            if self.config.is_training:
                self._as_before(state)._train(files, state)
            else:
                evaluator = self._evaluator()
                assert evaluator is not None
                evaluation = evaluator.run(self.network, 1, self._destination())
                time_s = time.monotonic() - self.started
                if record := EvaluationRecord.of(1, time_s, evaluation, {}):
                    files.add_evaluations([record])
                    log_evaluation(self.log, evaluation)

    def _as_before(self, state: State | None) -> _Run:
        """Count the time, and scale the images, as the run did that this one goes on with."""
        if state is None:
            return self
        stored = IntensityRange.of_checkpoint(state.intensity_range)
        if stored is not None and stored.is_full_scale:
            stored = None
        started = self.started - state.time_s
        return replace(
            self, started=started, data=self.data.with_range(stored, is_full=stored is None)
        )

    def _train(self, files: OutputFiles, state: State | None) -> None:
        config = self.config
        assert self.data.train is not None
        assert config.loss is not None
        recorder = recorder_on(self.device)
        capturable = recorder is not None
        optimizer = build_optimizer(
            config.optimizer, self.network.parameters(), capturable=capturable
        )
        batches = self._batches(self.data.train, config.data.batch_size)
        direction = best_direction(config.checkpoints, config.metrics.plugins)
        worst = worst_figure(config.checkpoints, config.metrics.plugins)
        used = self._used(optimizer, batches)
        if config.checkpoints.best_by is not None:
            used["checkpoints.best_direction"] = direction.value
        log_used(self.log, used)
        learning_rate = LearningRate(
            config.optimizer, optimizer, tensor=capturable and not needs_closure(optimizer)
        )
        training = Training(
            network=self.network,
            optimizer=optimizer,
            learning_rate=learning_rate,
            keeper=CheckpointKeeper(
                config.checkpoints, config.num_epochs, direction=direction, worst=worst
            ),
            intensity_range=self.data.train.stored_range,
        )
        num_done = 0
        if state is not None:
            restore(training, state)
            num_done = state.epoch
            self.log(f"Resuming after epoch {num_done}")
        fitter = self._fitter(optimizer)
        step = TrainingStep(
            network=self.network,
            batches=batches,
            loss=build_loss(config.loss, self.activation, self.facts.output_shape[-1]),
            optimizer=optimizer,
            precision=self.precision,
            world=self.world,
            fitter=fitter,
        )
        make_trainer = partial(
            Trainer,
            network=self.network,
            batches=step.batches,
            step=captured(step, recorder, self.log, wanted=config.cuda_graph),
            device=self.device,
            world=self.world,
            seed=config.seed,
            started=self.started,
            log_batches=partial(log_train_batches, self.log, config.num_epochs),
            log_interval_s=config.log_interval_s,
        )
        EpochLoop(
            config=config,
            log=self.log,
            training=training,
            make_trainer=lambda record: make_trainer(record=record),
            fitter=fitter,
            evaluator=self._evaluator(lambda: fitter.free()),
            destination=self._destination(),
            device=self.device,
            is_first=self.world.is_first,
            used=used,
            started=self.started,
        ).run(files, num_done)

    def _used(self, optimizer: torch.optim.Optimizer, batches: Batches) -> dict[str, Any]:
        """Return the settings that this run trains with: its objects' own, where they have any."""
        settings = settings_of(self.config)
        own = settings_in_use(optimizer, self.config.optimizer)
        settings |= {f"optimizer.{key}": value for key, value in own.items()}
        return settings | {"data.batch_size": batches.batch_size}

    def _fitter(self, optimizer: torch.optim.Optimizer) -> BatchFitter:
        def reserve() -> list[torch.Tensor]:
            # Optimizers such as Adam keep two numbers per weight, from the first step on.
            weights = [] if optimizer.state else list(self.network.parameters())
            return [torch.empty_like(weight) for weight in weights for _ in range(2)]

        return BatchFitter(
            batch_size=self.config.data.batch_size,
            num_processes=self.world.size,
            may_halve=self.config.data.halve_batch_on_oom,
            reserve=reserve,
            log=self.log,
        )

    def _batches(self, images: ImageSet, batch_size: int) -> Batches:
        coding = self.data.coding
        continuous = coding is not None and coding.kind == "continuous"
        return Batches(
            images,
            batch_size=batch_size,
            device=self.device,
            continuous=continuous,
            world=self.world,
        )

    def _evaluator(self, free_memory: Callable[[], bool] = nothing_to_free) -> Evaluator | None:
        test, config = self.data.test, self.config
        if test is None:
            return None
        num_channels = self.facts.output_shape[-1]
        has_targets = test.targets_NHW is not None
        num_epochs = config.num_epochs if config.is_training else 1
        return Evaluator(
            batches=self._batches(test, config.data.test_batch_size),
            world=self.world,
            activation=self.activation,
            loss=build_loss(config.loss, self.activation, num_channels)
            if config.loss and has_targets
            else None,
            new_counts=self._new_counts if has_targets else None,
            log_batch=partial(log_eval_batch, self.log, num_epochs),
            log_interval_s=config.log_interval_s,
            free_memory=free_memory,
            own_size=self._own_size(test),
            at_size=config.metrics.at_size,
            output_size=output_size(config, self.facts, test),
        )

    def _own_size(self, test: ImageSet) -> OwnSize | None:
        if self.config.metrics.at_size == "network" or test.targets_NHW is None:
            return None
        return OwnSize(test, self.data.coding)

    def _new_counts(self) -> SegmentationCounts | RegressionCounts:
        coding, is_classification = self.data.coding, self.data.is_classification
        if coding is not None and is_regression(self.config, coding, self.activation):
            return RegressionCounts()
        num_channels, names = self.facts.output_shape[-1], self.config.data.class_names
        if isinstance(coding, LabelCoding):
            names = coding.names_of(num_channels)
        return SegmentationCounts(
            num_channels,
            names,
            include_background=self.config.metrics.include_background is not False
            or is_classification,
            ignore_index=self.config.loss.ignore_index if self.config.loss else self.data.pad_id,
            with_hd95=self.config.metrics.hd95,
            plugins=self.config.metrics.plugins,
            is_classification=is_classification,
        )

    def _destination(self) -> Destination | None:
        data = self.config.data
        if data.test_output_path is None and data.hdf5_outfile is None:
            return None
        return Destination(
            Path(data.test_output_path) if data.test_output_path else None,
            Path(data.hdf5_outfile) if data.hdf5_outfile else None,
            data.hdf5_precision == "half",
        )
