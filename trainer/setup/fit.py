"""Checks that a network's output fits the masks, and decides what its last activation means.

No torch here: `rml-optimize --dry-run` makes the same checks on a login node.
"""

from __future__ import annotations

from trainer.config import NeuralNetwork
from trainer.config.loss import REGION_LOSSES
from trainer.data.survey import MaskCoding
from trainer.errors import ConfigError, NetworkError
from trainer.networks import NetworkFacts
from trainer.networks.spec import Activation


def resolve_activation(config: NeuralNetwork, facts: NetworkFacts) -> Activation:
    """Return what turns the network's logits into probabilities.

    A network that ends in sigmoid, softmax or log_softmax says it itself; `loss.source` must
    agree. One that ends in anything else gives logits, for which `loss.source` names the
    activation: by default sigmoid for one channel and softmax for more. MSE takes raw output.

    Raises:
        ConfigError: `loss.source` contradicts the network.
    """
    ending = facts.final_activation
    source = config.loss.source if config.loss else None
    if ending in ("sigmoid", "softmax", "log_softmax"):
        if source is not None and source != ending:
            raise ConfigError(
                f"loss.source: {source!r}, but network {facts.name!r} ends in {ending}; "
                f"set it to {ending!r} or leave it out"
            )
        return ending  # type: ignore[return-value]  # one of the three by the line above
    if source is not None:
        return source
    if config.loss is not None and config.loss.function == "MSE":
        return "linear"
    return "sigmoid" if facts.output_shape[-1] == 1 else "softmax"


def is_regression(config: NeuralNetwork, coding: MaskCoding, activation: Activation) -> bool:
    """Say whether values are to be found, not places: no Dice tells how well that is done.

    Continuous targets of one channel are a soft mask otherwise, whose half is foreground.
    """
    return coding.kind == "continuous" and (
        coding.num_channels > 1
        or config.data.patches is not None
        or activation == "linear"
        or (config.loss is not None and config.loss.function == "MSE")
    )


def check_fit(
    facts: NetworkFacts,
    coding: MaskCoding,
    config: NeuralNetwork,
    size_HW: tuple[int, ...],
    target_size: tuple[int, ...] | None = None,
) -> None:
    """Refuse a network whose output cannot be compared with the masks.

    Args:
        facts: of the network.
        coding: what the masks hold.
        config: the whole of it.
        size_HW: of the images as the network gets them.
        target_size: of the masks, if that is another.

    Raises:
        NetworkError: number of channels against classes, or an output larger than the masks.
        ConfigError: per-class settings of another length than the number of classes.
    """
    num_channels = facts.output_shape[-1]
    _check_metrics(facts, coding, config, len(size_HW))
    if coding.kind == "labels":
        _check_classification(facts, coding, config)
        return
    if len(facts.output_shape) != len(size_HW) + 1:
        axes = (
            "(height, width, classes)" if len(size_HW) == 2 else "(depth, height, width, classes)"
        )
        raise NetworkError(
            f"network {facts.name!r}: its output has shape {facts.output_shape}; a segmentation "
            f"needs {axes}"
        )
    if target_size is not None and target_size != facts.output_shape[:-1]:
        output, ours, theirs = (
            "x".join(map(str, size)) for size in (facts.output_shape[:-1], size_HW, target_size)
        )
        raise NetworkError(
            f"network {facts.name!r}: makes {output} of {ours}, and the targets are {theirs}; "
            "resize inputs and targets (data.input_transforms, data.target_transforms) to sizes "
            "between which the network leads, or both alike in data.transforms"
        )
    if coding.kind == "continuous":
        _check_continuous(facts, coding, config)
        _check_lengths(config, num_channels)
        if target_size is not None:
            return
    num_classes = coding.num_learned(config.loss.ignore_index if config.loss else None)
    if num_channels == 1 and num_classes > 2:
        raise NetworkError(
            f"network {facts.name!r} has 1 output channel, the masks {num_classes} classes "
            f"({coding.describe()}); give its last layer {num_classes} channels and softmax"
        )
    is_two_valued = coding.kind in ("binary", "threshold")
    if num_channels > 1 and (num_classes > num_channels or (is_two_valued and num_channels > 2)):
        raise NetworkError(
            f"network {facts.name!r} has {num_channels} output channels, which does not fit the "
            f"masks: {coding.describe()}; give its last layer "
            f"{num_classes if num_classes > 2 else 1}"
        )
    output_HW = facts.output_shape[:-1]
    target_HW = target_size or size_HW
    if any(ours > theirs for ours, theirs in zip(output_HW, target_HW, strict=True)):
        raise NetworkError(
            f"network {facts.name!r}: its output is {'x'.join(map(str, output_HW))}, larger than "
            f"the masks, {'x'.join(map(str, size_HW))}; check data.transforms"
        )
    _check_lengths(config, num_channels)


def _check_metrics(
    facts: NetworkFacts, coding: MaskCoding, config: NeuralNetwork, rank: int
) -> None:
    if config.metrics.hd95 and (coding.kind == "labels" or rank != 2):
        raise ConfigError("metrics.hd95: is measured between the masks of images only")
    if not is_regression(config, coding, resolve_activation(config, facts)):
        return
    for key in ("hd95", "plugins"):
        if getattr(config.metrics, key):
            raise ConfigError(
                f"metrics.{key}: compares masks of classes, and these targets are values; "
                "leave it out"
            )


def _check_continuous(facts: NetworkFacts, coding: MaskCoding, config: NeuralNetwork) -> None:
    num_channels, wanted = facts.output_shape[-1], coding.num_channels
    if wanted > 1 and num_channels != wanted:
        raise NetworkError(
            f"network {facts.name!r} has {num_channels} output channel(s), the targets {wanted} "
            f"({coding.describe()}); give its last layer {wanted}, make the targets gray by "
            "data.target_grayscale, or, where their colours are classes, write masks of class ids "
            "(rml-data prepare folder … --colors RRGGBB,…)"
        )
    if num_channels > 1 and wanted == 1:
        raise NetworkError(
            f"network {facts.name!r} has {num_channels} output channels, the targets one "
            f"value a pixel ({coding.describe()}); give its last layer 1 channel, or make classes "
            "of them by data.mask_values or data.mask_threshold"
        )
    if config.loss is not None and config.loss.ignore_index is not None:
        raise ConfigError(
            f"loss.ignore_index: {config.loss.ignore_index} is no class, as the targets are "
            f"continuous ({coding.describe()}); make classes of them by data.mask_values, where "
            "the value to leave out stands last, with its place as ignore_index"
        )
    for key in ("transforms", "target_transforms"):
        for index, entry in enumerate(getattr(config.data, key)):
            values = (entry.normalize.mean, entry.normalize.std) if entry.normalize else ()
            if any(isinstance(value, tuple) and len(value) not in (1, wanted) for value in values):
                raise ConfigError(
                    f"data.{key}[{index}].normalize: a number for each channel fits the inputs "
                    f"only, and the targets are continuous, of {wanted} channel(s); put it into "
                    "data.input_transforms"
                )


def _check_classification(facts: NetworkFacts, coding: MaskCoding, config: NeuralNetwork) -> None:
    num_classes, shape = coding.num_classes, facts.output_shape
    if len(shape) != 1 or (shape[0] < num_classes and (shape[0], num_classes) != (1, 2)):
        raise NetworkError(
            f"network {facts.name!r}: its output has shape {shape}, and there are "
            f"{num_classes} classes; end it in Flatten or GlobalAveragePooling and a Dense of "
            f"{num_classes} or more"
        )
    if config.loss is not None and config.loss.function in REGION_LOSSES:
        raise ConfigError(
            f"loss.function: {config.loss.function} compares regions; for target_type labels use "
            "NLL, Focal, BCE or MSE"
        )
    _check_lengths(config, shape[0])


def _check_lengths(config: NeuralNetwork, num_channels: int) -> None:
    names = config.data.class_names
    # With labels they are the folders, of which there may be fewer than outputs.
    if names is not None and not config.data.has_labels and len(names) != max(2, num_channels):
        raise ConfigError(
            f"data.class_names: {len(names)} names for {max(2, num_channels)} classes "
            "(the background is one)"
        )
    weight = config.loss.weight if config.loss else None
    is_cancelled = num_channels == 1 and isinstance(weight, tuple) and len(weight) == 1
    if isinstance(weight, tuple) and len(weight) != max(2, num_channels) and not is_cancelled:
        raise ConfigError(
            f"loss.weight: {len(weight)} weights for {max(2, num_channels)} classes "
            "(the background is one)"
        )
