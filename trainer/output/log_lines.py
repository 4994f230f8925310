"""Writes to the log what the contract asks for: sections, and a line for every few batches."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trainer.compute.parallel import World
from trainer.config import Data, NeuralNetwork, Section
from trainer.data.doubts import doubts_about
from trainer.data.imageset import ImageSet, LoadedData
from trainer.log import Log
from trainer.metrics.records import Evaluation, Step
from trainer.metrics.regression import RegressionScores
from trainer.metrics.scores import Scores
from trainer.networks import NetworkFacts
from trainer.networks.spec import Activation
from trainer.wording import counted


def log_device(
    log: Log, device: torch.device, precision: torch.dtype, seed: int, world: World
) -> None:
    """Write where the run computes, how exactly, and from which seed."""
    name = "CPU"
    if device.type == "cuda":
        name = f"CUDA:{device.index or 0} ({torch.cuda.get_device_name(device)})"
        log("CUDA available! Will train on GPU")
    log.heading("Device(s)")
    for each in world.gather(name):
        log(f"   {each}")
    log.entries(
        {
            "Precision": f"{str(precision).removeprefix('torch.')} (evaluation: float32)",
            "Threads": torch.get_num_threads(),
            "Seed": seed,
            **({"Processes": f"{world.size} ({world.backend})"} if world.size > 1 else {}),
        }
    )
    log.rule()


def log_network(log: Log, facts: NetworkFacts, network: nn.Module, activation: Activation) -> None:
    """Write what was built; moving statistics are no parameters, as in the reference's log."""
    shape = "x".join(str(size) for size in facts.output_shape)
    ending, num_operations = facts.final_activation, facts.num_operations
    log.section(
        "Neural Network",
        {
            "Model name": facts.name,
            "Total parameters": sum(weight.numel() for weight in network.parameters()),
            "Trainable parameters": facts.num_trainable,
            **({} if num_operations is None else {"Num of operations": num_operations}),
            "Num of layers": facts.num_layers,
            "Output": f"{shape}, {ending}"
            + ("" if ending == activation else f" (read as logits of {activation})"),
        },
    )


def log_data(log: Log, config: NeuralNetwork, data: LoadedData, world: World) -> None:
    """Write what was read, what is done to it, and what the masks mean."""
    log.heading("Dataset")
    if data.train is not None:
        size = config.data.batch_size
        per_image = config.data.tiles.per_image if config.data.tiles else 1
        num_full, rest = divmod(len(data.train) * per_image, size)
        full_parts, rest_parts = world.part_sizes(size), world.part_sizes(rest)
        shares = [num_full * f + r for f, r in zip(full_parts, rest_parts, strict=True)]
        num_batches = _num_batches(Counter(data.train.sizes).values(), size)
        num_batches = num_batches or num_full + (rest > 0)
        log("Training dataset:")
        _log_part(log, config.data, data.train, size, shares, full_parts, num_batches)
    if data.test is not None:
        size = config.data.test_batch_size
        shares = world.part_sizes(len(data.test))
        batch = -(-size // world.size)
        num_batches = _num_in_order(data.test.sizes, shares, batch)
        num_batches = num_batches or (shares[0] if config.data.tiles else -(-shares[0] // batch))
        log("Test dataset:")
        _log_part(log, config.data, data.test, size, shares, [batch], num_batches)
    log.rule()
    images = data.train or data.test
    if images is not None and images.intensity_range is not None:
        log(f"Intensities: {images.intensity_range}")
    elif data.bits == 16:
        log('Intensities: 0 to 65535 become 0 to 1 (data.intensity_range "full", or none known)')
    if data.coding is not None:
        kind = "Labels" if data.is_classification else "Mask values"
        if data.coding.kind == "continuous" and not data.coding.counts:
            kind = "Targets:"
        log(f"{kind} {data.coding.describe()}")
        if data.is_classification:
            log(f"Number of class labels: {data.coding.num_classes}")
        ignored = config.loss.ignore_index if config.loss else None
        names = config.data.class_names
        if not data.is_classification:
            for doubt in doubts_about(data.coding, class_names=names, ignore_index=ignored):
                log(f"warning: {doubt}")
    if data.is_classification:
        log("Accuracy, also in the test log: the share of samples whose class is found")


def _num_batches(lengths: Iterable[int], size: int) -> int:
    """Count the batches of so many samples of each size: a batch is of one."""
    return sum(-(-length // size) for length in lengths)


def _num_in_order(sizes: Iterable[tuple[int, ...]], shares: list[int], size: int) -> int:
    """Count the batches of samples that keep their order, of the process that has most."""
    rest = iter(sizes)
    blocks = [itertools.groupby(itertools.islice(rest, share)) for share in shares]
    return max(_num_batches([len([*run]) for _, run in block], size) for block in blocks)


def _log_part(
    log: Log,
    data: Data,
    part: ImageSet,
    batch_size: int,
    shares: list[int],
    batch_sizes: list[int],
    num_batches: int,
) -> None:
    tiles, num_samples = part.tiles, sum(shares)
    kind = "images " if data.inputs in ("images", "mnist") else "samples"
    cut: dict[str, object] = {}
    if tiles is not None:
        cut["Tiles"] = ", ".join(f"{key}: {value}" for key, value in tiles)
    if num_samples != len(part):
        cut["Crops of so many images"] = len(part)
    log.entries(
        {
            "Type": data.inputs,
            f"Num {kind} (total)": num_samples,
            f"Num {kind} (per process)": _range(shares),
            "Batch size  (requested)": batch_size,
            "Batch size  (per process)": _range(batch_sizes),
            "Num batches (per process)": num_batches,
            "Input size": "x".join(str(size) for size in part.input_shape),
            **cut,
        }
    )
    for key in ("transforms", "input_transforms", "target_transforms"):
        if entries := getattr(data, key):
            log(f"   {key.replace('_', ' ').capitalize()}:")
            for entry in entries:
                steps = entry.model_dump(mode="json", exclude_unset=True)
                shown = {name: json.dumps(value) for name, value in steps.items()}
                log.entries(shown, indent=6, width=22)


def _range(values: list[int]) -> str:
    least, most = min(values), max(values)
    return f"{most}" if least == most else f"{least} to {most}"


LOSS_NAMES = {
    "NLL": "Negative Log-Likelihood",
    "BCE": "Binary Cross-Entropy",
    "MSE": "Mean Squared Error",
}


def log_training(log: Log, config: NeuralNetwork) -> None:
    """Write how the network is trained."""
    assert config.loss is not None  # checked with the config
    optimizer, loss = config.optimizer, config.loss
    log.section("Optimizer", _settings(optimizer))
    if optimizer.lr_scheduler:
        log.section("Learning rate scheduler", _settings(optimizer.lr_scheduler))
    full_name = LOSS_NAMES.get(loss.function)
    shown = {
        "Function": loss.function + (f" ({full_name})" if full_name else ""),
        "Weight": _listed(loss.weight),
        "Ignore index": loss.ignore_index,
    }
    if loss.source is not None:
        shown["Source"] = loss.source
    if loss.function in ("Dice", "Jaccard"):
        shown["Eps"] = loss.eps
    if loss.function == "Focal":
        shown["Gamma"] = loss.gamma
    log.section("Loss", shown)


def log_used(log: Log, settings: Mapping[str, Any]) -> None:
    """Write the settings that the training really uses, in one line."""
    values = (f"{key}={json.dumps(value)}" for key, value in settings.items())
    log(f"Values used: {', '.join(values)}")


def log_train_batches(
    log: Log, num_epochs: int, num_batches: int, steps: Sequence[tuple[Step, float]]
) -> None:
    """Write a line for each training step, with the share of its time spent on the batch."""
    lines = [
        f"Train Epoch [{step.epoch:3d}/{num_epochs:3d}] : "
        f"Batch [{step.batch:5d}/{num_batches:5d}] "
        f"(Loss = {step.loss:.4f}; |g| = {step.gradient_norm:.4f}) "
        f"[Data: {data_share:.0%}; Compute: {1 - data_share:.0%}]"
        for step, data_share in steps
    ]
    log("\n".join(lines))


def log_eval_batch(
    log: Log,
    num_epochs: int,
    epoch: int,
    batch: int,
    num_batches: int,
    loss: float | None,
    accuracy: float | None,
) -> None:
    """Write the line of an evaluated batch; loss and accuracy are those of the batches so far."""
    line = f"Eval  Epoch [{epoch:3d}/{num_epochs:3d}] : Batch [{batch:5d}/{num_batches:5d}]"
    if loss is not None:
        line += f" (Loss: {loss:.4f})"
    if accuracy is not None:
        line += f" | Accuracy: {accuracy:.3f}"
    log(line)


def log_evaluation(log: Log, evaluation: Evaluation) -> None:
    """Write the scores of an evaluation, and at which size; nothing where there are no masks."""
    if evaluation.scores is not None:
        at = "images' own" if evaluation.at_size == "images" else "network's"
        log_scores(log, evaluation.scores, f"at the {at} size")
    if evaluation.own_scores is not None:
        log_scores(log, evaluation.own_scores, "at the images' own size")


def log_scores(
    log: Log, scores: Scores | RegressionScores, at: str = "at the network's size"
) -> None:
    """Write both Dice figures, and of what; of a classification the share of right answers, of a
    regression how far it is from the targets."""
    if isinstance(scores, RegressionScores):
        log(
            f"R2 = {scores.r2:.6f}, mean squared error = {scores.mse:.6g}, mean absolute error = "
            f"{scores.mae:.6g} ({scores.num_images} images)"
        )
        return
    if scores.is_classification:
        log(f"accuracy = {scores.accuracy:.6f} ({scores.num_images} samples)")
        return
    if not scores.classes_averaged:
        log(
            "warning: the masks of the test part have no foreground, so there is no Dice: 0 in "
            f"the test log, null in the metrics ({scores.num_images} images)"
        )
        return
    log(
        f"dice_dataset = {scores.dice_dataset:.6f}, "
        f"dice_per_image = {scores.dice_per_image:.6f} "
        f"(classes averaged: {', '.join(scores.classes_averaged)}; "
        f"{counted(scores.num_images, 'image')}, {at}{_lacking(scores)})"
    )
    if scores.dice_with_background is not None and scores.dice_without_background is not None:
        first = next(iter(scores.per_class))
        which = "with" if first in scores.classes_averaged else "without"
        log(
            f"dice_dataset with {first} = {scores.dice_with_background:.6f}, without = "
            f"{scores.dice_without_background:.6f}; the accuracy is the one {which} it "
            "(metrics.include_background)"
        )


def _lacking(scores: Scores) -> str:
    """Name the classes that no mask shows: they are in no average."""
    names = [name for name, of in scores.per_class.items() if math.isnan(of["sensitivity"])]
    return f"; in no mask: {', '.join(names)}" if names else ""


def _settings(section: Section) -> dict[str, Any]:
    """Return a section's settings as the reference engine names them, `type` first."""
    values = {key: value for key, value in section if key not in ("type", "lr_scheduler")}
    first = {"type": section.type}  # type: ignore[attr-defined]  # of optimizers and schedulers
    named = (first | values).items()
    return {key.replace("_", " ").capitalize(): _listed(value) for key, value in named}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
