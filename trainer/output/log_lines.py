"""Says what the contract wants in the log: its sections, and a line for every few batches."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from trainer.compute.parallel import World
from trainer.config import NeuralNetwork
from trainer.data.doubts import doubts_about
from trainer.data.imageset import ImageSet, LoadedData
from trainer.log import Log
from trainer.metrics.records import Evaluation, Step
from trainer.metrics.scores import Scores
from trainer.networks import NetworkFacts
from trainer.networks.spec import Activation
from trainer.wording import counted


def log_device(
    log: Log, device: torch.device, precision: torch.dtype, seed: int, world: World
) -> None:
    """Write where the run computes, how exactly, and from which seed."""
    name = str(device)
    if device.type == "cuda":
        name += f" ({torch.cuda.get_device_name(device)})"
    log.section(
        "Device(s)",
        {
            "device": name,
            "precision": f"{str(precision).removeprefix('torch.')} (evaluation: float32)",
            "threads": torch.get_num_threads(),
            "seed": seed,
            **({"processes": f"{world.size} ({world.backend})"} if world.size > 1 else {}),
        },
    )


def log_network(log: Log, facts: NetworkFacts, activation: Activation) -> None:
    """Write what was built."""
    shape = "x".join(str(size) for size in facts.output_shape)
    ending = facts.final_activation
    log.section(
        "Neural Network",
        {
            "model name": facts.name,
            "number of layers": facts.num_layers,
            "total parameters": f"{facts.num_trainable + facts.num_non_trainable:,}",
            "trainable parameters": f"{facts.num_trainable:,}",
            "output": f"{shape}, {ending}"
            + ("" if ending == activation else f" (read as logits of {activation})"),
        },
    )


def log_data(log: Log, config: NeuralNetwork, data: LoadedData, world: World) -> None:
    """Write what was read, what is done to it, and what the masks mean."""
    if data.train is not None:
        size = config.data.batch_size
        per_image = config.data.tiling.per_image if config.data.tiling else 1
        num_full, rest = divmod(len(data.train) * per_image, size)
        full_parts, rest_parts = world.part_sizes(size), world.part_sizes(rest)
        shares = [num_full * f + r for f, r in zip(full_parts, rest_parts, strict=True)]
        num_batches = num_full + (rest > 0)
        _log_part(log, "Dataset (training)", data.train, size, shares, full_parts, num_batches)
    if data.test is not None:
        size = config.data.test_batch_size
        shares = world.part_sizes(len(data.test))
        batch = -(-size // world.size)
        num_batches = shares[0] if config.data.tiling else -(-shares[0] // batch)
        _log_part(log, "Dataset (test)", data.test, size, shares, [batch], num_batches)
    if config.data.transforms:
        steps = [entry.model_dump(exclude_unset=True) for entry in config.data.transforms]
        log.section("Transforms", {str(i): json.dumps(step) for i, step in enumerate(steps, 1)})
    images = data.train or data.test
    if images is not None and images.intensity_range is not None:
        log(f"Intensities: {images.intensity_range}")
    elif data.bits == 16:
        log('Intensities: 0 to 65535 become 0 to 1 (data.intensity_range "full", or none known)')
    if data.coding is not None:
        kind = "Labels" if data.is_classification else "Mask values"
        log(f"{kind} {data.coding.describe()}")
        ignored = config.loss.ignore_index if config.loss else None
        names = config.data.class_names
        if not data.is_classification:
            for doubt in doubts_about(data.coding, class_names=names, ignore_index=ignored):
                log(f"warning: {doubt}")
    if data.is_classification:
        log("Accuracy, also in the test log: the share of samples whose class is found")


def _log_part(
    log: Log,
    title: str,
    part: ImageSet,
    batch_size: int,
    shares: list[int],
    batch_sizes: list[int],
    num_batches: int,
) -> None:
    tiles, num_samples = part.tiles, sum(shares)
    kind = "images" if num_samples == len(part) else f"crops of {counted(len(part), 'image')}"
    cut = {} if tiles is None else {"tiles": ", ".join(f"{k}: {v}" for k, v in tiles)}
    log.section(
        title,
        {
            f"{kind} (total / per process)": f"{num_samples} / {_range(shares)}",
            **cut,
            "batch size (requested / per process)": f"{batch_size} / {_range(batch_sizes)}",
            "batches per process": num_batches,
            "input size": "x".join(str(size) for size in part.input_shape),
        },
    )


def _range(values: list[int]) -> str:
    least, most = min(values), max(values)
    return f"{most}" if least == most else f"{least} to {most}"


def log_training(log: Log, config: NeuralNetwork) -> None:
    """Write how the network is trained."""
    assert config.loss is not None  # checked with the config
    scheduler = config.optimizer.lr_scheduler
    log.section("Optimizer", _settings(config.optimizer, leave_out="lr_scheduler"))
    log.section("Learning rate scheduler", _settings(scheduler) if scheduler else {"type": "none"})
    log.section("Loss", _settings(config.loss))


def log_train_batch(
    log: Log, num_epochs: int, num_batches: int, step: Step, data_share: float
) -> None:
    """Write the line of a training step; `data_share` is the share of time spent on batches."""
    log(
        f"Train Epoch [{step.epoch:3d}/{num_epochs:3d}] : "
        f"Batch [{step.batch:5d}/{num_batches:5d}] "
        f"(Loss = {step.loss:.4f}; |g| = {step.gradient_norm:.4f}) "
        f"[Data: {data_share:.0%}; Compute: {1 - data_share:.0%}]"
    )


def log_eval_batch(
    log: Log,
    num_epochs: int,
    epoch: int,
    batch: int,
    num_batches: int,
    loss: float | None,
    scores: Scores | None,
) -> None:
    """Write the line of an evaluated batch; loss and accuracy are those of the batches so far."""
    line = f"Eval  Epoch [{epoch:3d}/{num_epochs:3d}] : Batch [{batch:5d}/{num_batches:5d}]"
    if loss is not None:
        line += f" (Loss: {loss:.4f})"
    if scores is not None:
        line += f" | Accuracy: {scores.accuracy:.3f}"
    log(line)


def log_evaluation(log: Log, evaluation: Evaluation) -> None:
    """Write the scores of an evaluation, and at which size; nothing where there are no masks."""
    if evaluation.scores is not None:
        at = "images' own" if evaluation.at_size == "images" else "network's"
        log_scores(log, evaluation.scores, f"at the {at} size")
    if evaluation.own_scores is not None:
        log_scores(log, evaluation.own_scores, "at the images' own size")


def log_scores(log: Log, scores: Scores, at: str = "at the network's size") -> None:
    """Write both Dice figures, and of what; of a classification the share of right answers."""
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


def _settings(section: Any, leave_out: str = "") -> dict[str, Any]:
    return {
        key: value
        for key, value in section.model_dump().items()
        if key != leave_out and value is not None
    }
