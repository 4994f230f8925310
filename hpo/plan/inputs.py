"""Writes the networks into the study's inputs folder, and checks that all fit together."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from hpo.dataset.survey import DataSurvey
from hpo.errors import UsageError
from hpo.plan.plugin_networks import facts_of
from hpo.plan.scoring import check_channels
from hpo.plan.space import Categorical, Dimension, Scalar, SearchSpace, build_config, unpack
from trainer.config import OPTIMIZERS, NeuralNetwork, parse_config
from trainer.config.messages import hint
from trainer.data.transforms import num_channels, plan_transforms
from trainer.errors import ConfigError, DataError, NetworkError
from trainer.keypath import get_path
from trainer.networks import (
    MODEL_SUFFIXES,
    Network,
    NetworkFacts,
    PluginNetwork,
    is_named,
    network_json,
    parse_any_network,
    read_network,
    takes_colour,
)
from trainer.rundir import write_atomic
from trainer.setup.fit import check_fit, resolve_activation

DEFAULT_LAYERS = Path("layers.json")  # the tutorial's
BUILTIN_LAYERS = "unet"
ACTIVATIONS = ("sigmoid", "softmax", "log_softmax")


@dataclass(frozen=True)
class NetworkChoice:
    """A network that trials may use.

    Attributes:
        file: its name in the inputs folder.
        settings: config fields that go with it (channels to read, `loss.source`), by path.
        plugin: the plug-in that it is of, None for a network of Keras's.
    """

    file: str
    settings: Mapping[str, Any]
    plugin: PluginNetwork | None = None


@dataclass(frozen=True)
class NetworkRequest:
    """Which network is wanted.

    Attributes:
        layers: file or built-in name, empty for the default.
        study_dir: where a study's own network files are.
        num_classes: what the user says, in place of what the masks show.
    """

    layers: str
    study_dir: Path | None
    num_classes: int | None

    def names(self, space: SearchSpace) -> list[str]:
        """Return every value that `layers` may take."""
        sampled = [str(choice) for choice in space.choices("layers")]
        for name in sampled:
            if re.fullmatch(r"\w+=\w+", name):
                raise UsageError(
                    f"--search layers: {name!r} is no network; a comma separates networks, so put "
                    "one with several options into double quotes: "
                    '--search \'layers="unet:width=8,depth=3","unet:width=4,depth=2"\''
                )
        default = str(DEFAULT_LAYERS) if DEFAULT_LAYERS.exists() else BUILTIN_LAYERS
        return sampled or [self.layers or default]

    def file(self, name: str) -> Path | None:
        """Return the network file that a name means, None for a built-in network or plug-in."""
        if Path(name).is_file():
            return Path(name)
        if self.study_dir is not None and (self.study_dir / name).is_file():
            return self.study_dir / name
        return None if is_named(name) else Path(name)


def bring_networks(
    request: NetworkRequest,
    base: Mapping[str, Any],
    space: SearchSpace,
    survey: DataSurvey,
    inputs: Path,
) -> tuple[dict[str, NetworkChoice], NetworkFacts]:
    """Write every network that trials may use into the inputs folder and check each.

    Returns:
        Value of `layers` -> the network, and the facts of the first.

    Raises:
        NetworkError, ConfigError: a network that cannot be built or does not fit the data.
    """
    height, width = _input_size(base)
    ignored = get_path(base, "loss.ignore_index")
    num_classes = request.num_classes or survey.coding.num_learned(ignored)
    choices: dict[str, NetworkChoice] = {}
    facts: dict[str, NetworkFacts] = {}
    for name in request.names(space):
        path = request.file(name)
        if path is not None:
            obj = read_network(path)
            parsed = parse_any_network(obj, str(path))
            is_model = path.suffix in MODEL_SUFFIXES
            text = json.dumps(obj) if is_model else path.read_text(encoding="utf-8-sig")
        else:
            is_gray = survey.is_gray and not takes_colour(name)
            network = network_json(
                name, (height, width, 1 if is_gray else 3), num_classes if num_classes > 2 else 1
            )
            parsed, text = parse_any_network(network, name), json.dumps(network)
        settings = _channel_settings(base, parsed)
        facts_at = cache(partial(facts_of, parsed, text))
        found = _check(build_config(base, settings), space, facts_at, survey)
        if found.final_activation in ACTIVATIONS:
            settings["loss.source"] = found.final_activation
        facts[name] = found
        inputs.mkdir(parents=True, exist_ok=True)
        plugin = parsed if isinstance(parsed, PluginNetwork) else None
        choices[name] = NetworkChoice(f"layers_{hash_text(text)}.json", settings, plugin)
        _write_new(inputs / choices[name].file, text)
    check_channels(facts)
    return choices, next(iter(facts.values()))


def _write_new(path: Path, text: str) -> None:
    """Write a file that does not have that text yet: a search goes on where the disk is full."""
    with contextlib.suppress(OSError, ValueError):
        if path.read_text(encoding="utf-8") == text:
            return
    write_atomic(path, text)


def hash_text(text: str) -> str:
    """Return a short hash, for names."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def hash_files(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return name -> hash of the content."""
    return {name: hash_file(folder / name) for name in names}


def check_fields(base: Mapping[str, Any], space: SearchSpace) -> None:
    """Refuse a field of `optimizer` that none of the optimizers has.

    Those that only some have are fine: they are left out where they don't apply.
    """
    types = [str(choice) for choice in space.choices("optimizer.type")]
    if not types:
        return  # one optimizer: the config's own check names its fields
    known = sorted({field for name in types for field in OPTIMIZERS[name].model_fields})
    sampled = [d.key.split(".")[1] for d in space.dimensions if d.key.startswith("optimizer.")]
    for field in (*base.get("optimizer", {}), *sampled):
        if field not in known:
            raise ConfigError(f"optimizer.{field}: unknown key; {hint(field, known)}")


def refuse_other_data(base: Mapping[str, Any], space: SearchSpace) -> None:
    """Refuse data that the worker takes and a search does not."""
    searched = [dimension.key for dimension in space.dimensions]
    for key in ("data.type", "data.input_type", "data.target_type"):
        value = get_path(base, key)
        if key in searched or str(value or "images").lower() != "images":
            raise UsageError(
                f"{key}: a search is on images and masks; train other data (numpy, hdf5, mnist, "
                "labels) with rmldnn --config"
            )


def _check(
    base: Mapping[str, Any],
    space: SearchSpace,
    facts_at: Callable[[tuple[int, ...]], NetworkFacts],
    survey: DataSurvey,
) -> NetworkFacts:
    """Check network and masks with every choice of every field that is searched.

    Losses with optimizers in every combination; of the other fields each choice, and the ends of
    each range, with the first choices of the rest.
    """

    def check(chosen: Mapping[str, Any]) -> NetworkFacts:
        config = parse_base(base, space, chosen)
        plan_transforms(config.data)  # refuses here what each trial would refuse
        height, width = _input_size(build_config(base, {**first_choices(space), **chosen}))
        facts = facts_at((height, width, num_channels(config.data)))
        resolve_activation(config, facts)
        check_fit(facts, survey.coding, config, (height, width))
        return facts

    try:
        facts = check({})
    except (ConfigError, NetworkError, DataError) as error:
        blamed = _first_choice_to_blame(space, check, error)
        raise error if blamed is None else blamed from None
    losses, optimizers = space.choices("loss.function"), space.choices("optimizer.type")
    for loss, optimizer in itertools.product(losses or (None,), optimizers or (None,)):
        pair = {"loss.function": loss, "optimizer.type": optimizer}
        check({key: value for key, value in pair.items() if value is not None})
    for dimension in space.dimensions:
        for value in _extremes(dimension):
            try:
                check(_with_what_it_needs(dimension, value, optimizers))
            except (ConfigError, NetworkError, DataError) as error:
                raise _refused(dimension, value, error) from None
    return facts


def _refused(dimension: Dimension, value: Scalar, error: Exception) -> ConfigError:
    reason = str(error).removeprefix("config: ")
    return ConfigError(f"--search {dimension.key}={value}: {reason}")


def _first_choice_to_blame(
    space: SearchSpace, check: Callable[[Mapping[str, Any]], object], error: Exception
) -> ConfigError | None:
    """Find the field whose first choice is why the first choices of all are refused.

    With another of its choices nothing is wrong, or the network does not fit in another way.
    """
    suspect = None
    for dimension in space.dimensions:
        values = _extremes(dimension) if dimension.when is None else ()
        for value in values[1:]:
            try:
                check({dimension.key: unpack(value)})
            except (ConfigError, NetworkError, DataError) as other:
                if isinstance(other, NetworkError) and str(other) != str(error):
                    suspect = suspect or _refused(dimension, values[0], error)
            else:
                return _refused(dimension, values[0], error)
    return suspect if isinstance(error, NetworkError) else None


def _extremes(dimension: Dimension) -> tuple[Scalar, ...]:
    """Return the choices of a field, or the ends of its range."""
    if dimension.key in ("layers", "loss.function", "optimizer.type"):
        return ()  # checked together
    values = dimension.values
    if isinstance(values, Categorical):
        return values.choices
    ends = (values.low, values.high)
    return tuple(int(end) for end in ends) if values.is_integer else ends


def _with_what_it_needs(
    dimension: Dimension, value: Scalar, optimizers: Sequence[Scalar]
) -> dict[str, Any]:
    """Return a choice with what else has to be chosen for it to be made."""
    chosen: dict[str, Any] = {dimension.key: unpack(value)}
    if dimension.when is not None:
        chosen[dimension.when[0]] = unpack(dimension.when[1])
    section, _, field = dimension.key.partition(".")
    if section == "optimizer" and optimizers and "optimizer.type" not in chosen:
        having = (str(o) for o in optimizers if field.partition(".")[0] in _fields_of(str(o)))
        chosen["optimizer.type"] = next(having, optimizers[0])
    return chosen


def _fields_of(optimizer: str) -> Collection[str]:
    return OPTIMIZERS[optimizer].model_fields.keys()


def first_choices(space: SearchSpace) -> dict[str, Any]:
    """Return the first value of every field that is searched without a condition."""
    return {
        d.key: unpack(d.values.choices[0]) if isinstance(d.values, Categorical) else d.values.low
        for d in space.dimensions
        if d.when is None
    }


def parse_base(
    base: Mapping[str, Any], space: SearchSpace, chosen: Mapping[str, Any]
) -> NeuralNetwork:
    """Check the base config as the worker will, with the first value of what is not chosen."""
    config = build_config(base, {**first_choices(space), **chosen})
    config.setdefault("layers", DEFAULT_LAYERS.name)
    for key in ("input_path", "target_path", "test_input_path", "test_target_path"):
        config["data"].setdefault(key, key)
    return parse_config({"neural_network": config}, "config")


def _input_size(base: Mapping[str, Any]) -> tuple[int, int]:
    """Return the (H, W) of tiles, or that the last resize or crop gives."""
    transforms = [e for e in get_path(base, "data.transforms", []) if isinstance(e, dict)]
    tiles = get_path(base, "data.tiles")
    if tiles:
        try:
            height, width = tiles["size"]
            return int(height), int(width)
        except (TypeError, ValueError, KeyError):
            raise ConfigError(
                f'data.tiles: expected {{"size": [H, W]}}, received {tiles!r}'
            ) from None
    for entry in reversed(transforms):
        for key in {"resize", "center_crop"}.intersection(entry):
            try:
                height, width = entry[key]
                return int(height), int(width)
            except (TypeError, ValueError):
                raise ConfigError(
                    f"data.transforms: {key}: expected [H, W], received {entry[key]!r}"
                ) from None
    raise ConfigError("data.transforms: a search needs a resize, see --resize")


def _channel_settings(base: Mapping[str, Any], network: Network) -> dict[str, Any]:
    """Read the images with as many channels as the network takes, unless the user said how."""
    if "input_grayscale" in base["data"] or "grayscale" in base["data"]:
        return {}
    entries = [*base["data"].get("transforms", []), *base["data"].get("input_transforms", [])]
    if any("convert_color" in entry for entry in entries if isinstance(entry, dict)):
        return {}  # the user says how colours become channels
    return {"data.input_grayscale": network.input_shape[-1] == 1}


def hash_file(path: Path) -> str:
    """Return a short hash of the content, for names."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
