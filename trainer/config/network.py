"""The object `neural_network`: everything that the worker needs to know about one run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from trainer.config.base import NonNegativeFloat, PositiveInt, Section, named
from trainer.config.data import Data
from trainer.config.loss import LOSSES, Loss
from trainer.config.messages import unknown_key_error, unknown_name_error
from trainer.config.optimizers import OPTIMIZERS, SGD, Optimizer
from trainer.figures import DICE_DATASET, LOWER_IS_BETTER, is_share
from trainer.plugins import METRICS_GROUP, plugin_names


class Checkpoints(Section):
    """Which weights to start from and which to keep."""

    load: str | None = None
    save: str | None = None
    interval: PositiveInt = 1
    # Ours. "best": only the checkpoint of the best evaluation so far stays on the disk.
    keep: Literal["all", "best"] = "all"
    # Ours. Which figure of metrics.jsonl makes an epoch the best; None: the accuracy.
    best_by: str | None = None
    # Ours. Whether its highest or its lowest is the best; None: what a metric of yours says.
    best_direction: Annotated[
        Literal["maximize", "minimize"] | None, named("maximize", "minimize")
    ] = None
    # Ours. Go on where a killed run with the same `save` stopped.
    resume: bool = False
    # Ours. Keep the last state of a run that is done, so that it can be given more epochs.
    resume_when_done: bool = True
    # Ours. End after this epoch, with its state, as if the run were done; to go on later.
    pause_after: PositiveInt | None = None
    # Ours. Accept weights for fewer than half of the encoder.
    allow_partial: bool = False

    @model_validator(mode="after")
    def _resume_needs_a_folder(self) -> Self:
        if self.resume and self.save is None:
            raise PydanticCustomError("resume", "resume needs save, the folder of its state")
        if self.pause_after is not None and not self.resume:
            raise PydanticCustomError("pause", "pause_after needs resume, to go on from its state")
        if self.best_by is not None and self.keep != "best":
            raise PydanticCustomError("best_by", 'best_by needs keep: "best"')
        if self.best_by in LOWER_IS_BETTER and self.best_by not in plugin_names(METRICS_GROUP):
            raise PydanticCustomError(
                "best_by",
                "{key} is no figure to compare by; expected a Dice or a metric of your own",
                {"key": self.best_by},
            )
        if self.best_direction is not None and self.best_by is None:
            raise PydanticCustomError("best_by", "best_direction needs best_by")
        key = self.best_by or DICE_DATASET
        if self.best_direction == "minimize" and is_share(key):
            raise PydanticCustomError(
                "best_by",
                "{key} is the better the higher, so best_direction cannot be minimize",
                {"key": key},
            )
        return self


def _installed_metrics(value: Any) -> Any:
    if isinstance(value, tuple) and value:
        installed = plugin_names(METRICS_GROUP)
        for name in value:
            if not installed:
                raise PydanticCustomError(
                    "plugins",
                    "no metric is installed as a plug-in, so not {name} either",
                    {"name": repr(name)},
                )
            if name not in installed:
                raise unknown_name_error(str(name), installed)
        if len(set(value)) < len(value):
            raise PydanticCustomError("plugins", "expected distinct names")
    return value


class Metrics(Section):
    """How the accuracy is averaged, and what else is measured (ours)."""

    # None: true, or what a stored model was scored with.
    include_background: bool | None = None
    # Where predictions are compared with masks: at the size of the network's input, at the
    # images' own, or at both, where the accuracy is that of the network's.
    at_size: Annotated[
        Literal["network", "images", "both"], named("network", "images", "both")
    ] = "network"
    hd95: bool = False
    plugins: Annotated[tuple[str, ...], BeforeValidator(_installed_metrics)] = ()


def _file_or_layers(value: Any) -> Any:
    if isinstance(value, str | tuple | dict) and value:
        return value
    raise PydanticCustomError(
        "layers", "expected the name of a network file, or the layers themselves"
    )


class NeuralNetwork(Section):
    """Everything that the worker needs to know about one run."""

    layers: Annotated[Any, BeforeValidator(_file_or_layers)]
    outfile: str | None = None
    num_epochs: PositiveInt = 1
    debug: bool = False
    debug_interval: PositiveInt | None = None
    checkpoints: Checkpoints = Checkpoints()
    data: Data
    optimizer: Optimizer = SGD()
    loss: Loss | None = None
    # Ours:
    metrics: Metrics = Metrics()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # On a GPU, capture each training step as one CUDA graph where that is possible.
    cuda_graph: bool = True
    # A log line for the last batch in so many seconds only; 0: a line for each batch.
    log_interval_s: NonNegativeFloat = 0.0
    # Where relative paths are looked for first; a folder that may be moved says "config".
    relative_to: Literal["cwd", "config"] = "cwd"
    # The folder that the config was written in: what has moved with it is found from there.
    written_at: str | None = None

    @classmethod
    def _unknown_key(cls, key: str) -> PydanticCustomError:
        sections: dict[str, type[Section]] = {
            "data": Data, "loss": Loss, "checkpoints": Checkpoints, "metrics": Metrics,
        }  # fmt: skip
        inside = [f"{name}.{key}" for name, model in sections.items() if key in model.model_fields]
        if any(key in model.model_fields for model in OPTIMIZERS.values()):
            inside.append(f"optimizer.{key}")
        return unknown_key_error(key, tuple(cls.model_fields), inside)

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.data.input_path is None and self.data.test_input_path is None:
            raise PydanticCustomError(
                "nothing", "nothing to do: set data.input_path to train or data.test_input_path"
            )
        if self.data.input_path is not None and self.loss is None:
            raise PydanticCustomError(
                "loss",
                "training needs loss.function, one of {names}",
                {"names": ", ".join(LOSSES)},
            )
        return self

    @property
    def is_training(self) -> bool:
        """Whether there is something to train on."""
        return self.data.input_path is not None


# Before a plug-in's name: what `--capabilities` says of the networks that are installed.
PLUGIN_NETWORK = "layers="

# Keys that only this engine knows; a driver leaves them out for an engine that is not ours.
EXTENSIONS = (
    "seed",
    "precision",
    "device",
    "cuda_graph",
    "log_interval_s",
    "relative_to",
    "written_at",
    "metrics",
    "metrics.at_size",
    "checkpoints.keep",
    "checkpoints.best_by",
    "checkpoints.best_direction",
    "checkpoints.resume",
    "checkpoints.resume_when_done",
    "checkpoints.pause_after",
    "checkpoints.allow_partial",
    "data.channels_first",
    "data.mask_values",
    "data.mask_threshold",
    "data.mask_resize",
    "data.rotate_direction",
    "data.class_names",
    "data.cache",
    "data.tiles",
    "data.intensity_range",
    "data.halve_batch_on_oom",
    "data.follow_symlinks",
    "loss.eps",
    "loss.gamma",
)
