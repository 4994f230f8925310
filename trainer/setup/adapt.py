"""Brings the config, the data and the network together before anything is built."""

from __future__ import annotations

import numpy as np

from trainer.config import NeuralNetwork
from trainer.data.arrayset import PAD_ID, Wanted
from trainer.data.dataset import Resolve
from trainer.data.geometry import final_size
from trainer.data.imageset import ImageSet, LoadedData
from trainer.data.intensity import IntensityRange, choose_range
from trainer.data.survey import MaskCoding
from trainer.errors import ConfigError
from trainer.log import Log
from trainer.losses import resolve_weights
from trainer.networks import (
    Network,
    NetworkFacts,
    is_named,
    load_network,
    network_json,
    parse_any_network,
)
from trainer.networks.torch_weights import EARLIER, stored_mask_resize, stored_rotate_direction
from trainer.output.resume import stored_rules


def wanted_arrays(config: NeuralNetwork, resolve: Resolve) -> Wanted:
    """Say what arrays must be like."""
    layers, loss = config.layers, config.loss
    if config.data.inputs in ("images", "mnist"):
        return Wanted()
    pad_id = PAD_ID if loss is None or loss.ignore_index is None else loss.ignore_index
    is_regression = loss is not None and loss.function == "MSE"
    if isinstance(layers, str) and is_named(layers) and not resolve(layers).exists():
        return Wanted(is_regression=is_regression, pad_id=pad_id)  # these take images of any size
    shape = load_graph(config, resolve, (), None).input_shape
    return Wanted(shape, is_regression, pad_id)


def with_scoring_rules(config: NeuralNetwork, resolve: Resolve, log: Log) -> NeuralNetwork:
    """Decide `data.mask_resize`, `data.rotate_direction` and `metrics.include_background` where
    the config does not.

    A stored model is scored as it was when it was stored: as its checkpoint says, or, of one that
    says nothing, by the rules of the time before there was a choice. So does a run that goes on
    after it was killed.
    """
    data, metrics = config.data, config.metrics
    going_on = stored_rules(config)
    if data.mask_resize is None and (rule := going_on.get("data.mask_resize")) is not None:
        data = data.model_copy(update={"mask_resize": rule})
        if rule == "opencv":
            log("Masks are resized as before this run was killed: data.mask_resize opencv")
    if metrics.include_background is None:
        rule = going_on.get("metrics.include_background")
        metrics = metrics.model_copy(update={"include_background": rule})
    stored = turned = None
    if not config.is_training and config.checkpoints.load is not None:
        path = resolve(config.checkpoints.load)
        stored, turned = stored_mask_resize(path), stored_rotate_direction(path)
    if data.rotate_direction is None:
        rule = going_on.get("data.rotate_direction")
        decided = rule or ("counterclockwise" if turned == EARLIER else turned) or "clockwise"
        data = data.model_copy(update={"rotate_direction": decided})
        if decided == "counterclockwise" and data.rotates:
            log("Images are turned counter-clockwise by `rotate`, as when this model was trained")
    is_earlier = stored == EARLIER
    if data.mask_resize is None and data.inputs == "images":
        decided = "opencv" if is_earlier else stored or "exact"
        data = data.model_copy(update={"mask_resize": decided})
        if decided == "opencv" and data.test_target_path is not None:
            log("Masks are resized as when this model was trained: data.mask_resize opencv")
    if metrics.include_background is None:
        metrics = metrics.model_copy(update={"include_background": not is_earlier})
        if is_earlier and data.test_target_path is not None:
            log("Classes are averaged as when this model was trained, without the background")
    return config.model_copy(update={"data": data, "metrics": metrics})


def with_ignored_padding(config: NeuralNetwork, data: LoadedData) -> NeuralNetwork:
    """Let what slices have beyond their array count nowhere."""
    if data.pad_id is None or config.loss is None:
        return config
    loss = config.loss.model_copy(update={"ignore_index": data.pad_id})
    return config.model_copy(update={"loss": loss})


def with_numeric_weights(
    config: NeuralNetwork, data: LoadedData, num_classes: int
) -> NeuralNetwork:
    """Compute `loss.weight: inverse_frequency^p` from the training masks, as the network sees
    them; an evaluation alone has the test masks only."""
    part = data.train or data.test
    if config.loss is None or part is None or part.targets_NHW is None or data.coding is None:
        return config
    if config.loss.weight_power is None:
        return config
    if data.coding.kind == "continuous":
        raise ConfigError(
            f"loss.weight: {config.loss.weight} counts classes, and the targets are continuous "
            f"({data.coding.describe()}); leave it out, or make classes of them by "
            "data.mask_values"
        )
    counts = np.zeros(num_classes, dtype=np.int64)
    for mask in part.targets_NHW:  # one at a time: bincount makes 8 bytes of each pixel
        mask = mask[mask < num_classes]  # without what is padded
        counts += np.bincount(mask.ravel(), minlength=num_classes)
    return config.model_copy(update={"loss": resolve_weights(config.loss, counts.tolist())})


def load_graph(
    config: NeuralNetwork,
    resolve: Resolve,
    input_shape: tuple[int, ...],
    coding: MaskCoding | None,
) -> Network:
    """Read the network that `layers` names: a file, a built-in name, or the layers themselves."""
    layers = config.layers
    if not isinstance(layers, str):
        return parse_any_network(list(layers) if isinstance(layers, tuple) else layers, "layers")
    path = resolve(layers)
    if path.exists() or not is_named(layers):
        return load_network(path)
    if coding is None:
        raise ConfigError(
            f"layers: {layers!r} by name needs masks, which tell the number of classes; "
            "write it to a file with `rmldnn --write-network`"
        )
    num_classes = coding.num_learned(config.loss.ignore_index if config.loss else None)
    num_classes = num_classes if num_classes > 2 else 1
    # arrays come here only where they are like images
    return parse_any_network(network_json(layers, input_shape, num_classes), layers)


def with_range(
    config: NeuralNetwork, data: LoadedData, stored: IntensityRange | None
) -> LoadedData:
    """Decide which stored values become 0 and 1; `stored` is the range of the weights."""
    chosen = choose_range(
        config.data.intensity_range,
        bits=data.bits,
        fitted=data.fitted_range,
        stored=None if config.is_training else stored,
    )
    return data.with_range(chosen, is_full=config.data.intensity_range == "full")


def output_size(
    config: NeuralNetwork, facts: NetworkFacts, test: ImageSet
) -> tuple[int, ...] | None:
    """Return the size of outputs where no targets tell it and inputs are no guide."""
    size = facts.output_shape[:-1]
    wanted = final_size(test.target_steps.reading) if config.data.sizes_differ else None
    is_larger = any(ours > theirs for ours, theirs in zip(size, test.input_shape, strict=False))
    return size if wanted == size or is_larger else None
