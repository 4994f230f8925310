"""Turns options, study file and data into a checked `StudySpec`, before any worker is paid for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import studies
from hpo.dataplan import DataSurvey, find_data, split_validation, survey_data
from hpo.errors import UsageError
from hpo.options import Options
from hpo.space import (
    Categorical,
    Dimension,
    Scalar,
    SearchSpace,
    build_config,
    checked_range,
    parse_search,
    unpack,
)
from hpo.spec import StudySpec, WorkFolders
from hpo.studyfile import TUTORIAL, StudyFile, find_study, load_study
from trainer.config import LOSSES, OPTIMIZERS, NeuralNetwork, parse_config
from trainer.config_errors import hint
from trainer.errors import ConfigError
from trainer.fit import check_fit, resolve_activation
from trainer.keypath import get_path, parse_setting, set_path
from trainer.networks import (
    Graph,
    NetworkFacts,
    check_network,
    is_builtin,
    load_network,
    network_json,
)
from trainer.rundir import write_atomic

DEFAULT_DATA = Path("data")
DEFAULT_LAYERS = Path("layers.json")
BUILTIN_LAYERS = "unet"
DEMO = "demo"
MAX_NAME_LENGTH = 100

Progress = Callable[[int, int], None]


def make_plan(options: Options, progress: Progress = lambda done, total: None) -> StudySpec:
    """Decide everything about a search and check that it can work.

    Writes the study's inputs (networks, split, generated data) below the output folder, nothing
    else.

    Raises:
        UsageError, ConfigError, DataError, NetworkError: what the user has to mend.
    """
    file, study_dir = _choose_study(options)
    return _Planner(options, file, study_dir, progress).plan()


def _choose_study(options: Options) -> tuple[StudyFile, Path | None]:
    """Return the study of `--study`, the demo where there is nothing else, or the tutorial's."""
    wants_demo = (
        options.data.data is None and options.data.study is None and not DEFAULT_DATA.exists()
    )
    name = DEMO if wants_demo else options.data.study
    if name is None:
        return TUTORIAL, None
    folder = find_study(name)
    return load_study(folder), folder


@dataclass
class _Planner:
    options: Options
    file: StudyFile
    study_dir: Path | None
    progress: Progress

    def plan(self) -> StudySpec:
        options, file = self.options, self.file
        select_on = options.data.select_on or file.select_on
        name, root, folders = self._place()
        data = find_data(root, needs_test=select_on == "test")
        base = self._base_config()
        space = self._space(base)
        survey = survey_data(
            data,
            cache=folders.study / "survey.json",
            mask_values=_optional_tuple(get_path(base, "data.mask_values")),
            mask_threshold=get_path(base, "data.mask_threshold"),
            progress=self.progress,
        )
        fraction = None
        trained = data
        if select_on == "validation":
            fraction = options.data.validation_fraction or file.validation_fraction
            trained = split_validation(
                data,
                folders.split,
                fraction=fraction,
                seed=options.search.seed,
                group_by=options.data.group_by or file.group_by,
            )
        networks, facts = self._networks(base, space, survey, folders)
        base.pop("layers", None)
        weights = self._weights(folders)
        files = [*networks.values(), *([weights] if weights else [])]
        return StudySpec(
            name=name,
            title=file.title,
            is_synthetic=file.generator is not None and options.data.data is None,
            folders=folders,
            data=data,
            survey=survey,
            trained=trained,
            base=base,
            networks=networks,
            weights=weights,
            facts=facts,
            space=space,
            num_trials=options.search.num_trials or file.num_trials,
            num_epochs=base["num_epochs"],
            select_on=select_on,
            validation_fraction=fraction,
            pruner=options.search.pruner or file.pruner,
            sampler=options.search.sampler,
            seed=options.search.seed,
            hashes={file: _hash(folders.inputs / file) for file in files},
        )

    def _place(self) -> tuple[str, Path, WorkFolders]:
        """Return study name, data folder and work folders; generate data where a study does."""
        options, generator = self.options, self.file.generator
        output = options.output.output_dir.absolute()
        name = options.output.study_name
        if options.data.data is None and generator is not None:
            folders = WorkFolders(output=output, study=output / "runs" / (name or generator))
            root = folders.study / "data"
            studies.GENERATORS[generator](root)
            return name or generator, root, folders
        root = (options.data.data or DEFAULT_DATA).absolute()
        if name is None:
            name = self.study_dir.name if self.study_dir else _folder_name(root)
            name = re.sub(r"[^\w .+-]|^[^\w]", "_", name)[:MAX_NAME_LENGTH]
        if not re.fullmatch(r"[\w][\w .+-]*", name) or len(name) > MAX_NAME_LENGTH:
            raise UsageError(f"--study-name {name!r}: use letters, digits, '_', '-', '.', '+'")
        return name, root, WorkFolders(output=output, study=output / "runs" / name)

    def _base_config(self) -> dict[str, Any]:
        """Return the fixed part of the `neural_network` object, without paths."""
        search, data = self.options.search, self.options.data
        base: dict[str, Any] = {
            "outfile": "out.txt",
            "num_epochs": search.num_epochs or self.file.num_epochs,
            "checkpoints": {"save": "temp_model/", "interval": 1, "keep": "best"},
            "data": {
                "type": "images",
                "preload": True,
                "target_grayscale": True,
                "target_is_mask": True,
                "transforms": [{"resize": list(_parse_size(data.resize) or self.file.resize)}],
            },
            "optimizer": {},
            "loss": {},
        }
        for key, value in self.file.config.items():
            set_path(base, key, list(value) if isinstance(value, tuple) else value)
        if search.lr_scheduler:
            base["optimizer"]["lr_scheduler"] = {
                "type": "Exponential",
                "gamma": search.lr_scheduler_gamma,
            }
        for text in search.set or ():
            key, value = parse_setting(text)
            set_path(base, key, value)
        return base

    def _space(self, base: dict[str, Any]) -> SearchSpace:
        """Return what is sampled: the study's space with the options' dimensions in it."""
        search, space = self.options.search, self.file.space()
        if search.optimizers is not None:
            names = _names(search.optimizers, tuple(OPTIMIZERS), "--optimizers")
            space = _with_choice(space, base, "optimizer.type", names)
        if search.loss is not None:
            names = _names(search.loss, LOSSES, "--loss")
            space = _with_choice(space, base, "loss.function", names)
        if search.lr_range_min is not None or search.lr_range_max is not None:
            low, high = search.lr_range_min or 0.001, search.lr_range_max or 0.01
            where = "--lr-range-min, --lr-range-max"
            values = checked_range(low, high, is_integer=False, log=True, step=None, where=where)
            space = space.with_dimension(Dimension("optimizer.learning_rate", values))
        for text in search.search or ():
            space = space.with_dimension(parse_search(text))
        fixed = {parse_setting(text)[0] for text in search.set or ()}
        kept = tuple(
            d
            for d in space.dimensions
            if d.key not in fixed and (d.when is None or _can_hold(space, base, d.when))
        )
        if not kept:
            raise UsageError("nothing is searched: every field is fixed; see --search")
        return SearchSpace(kept)

    def _networks(
        self,
        base: dict[str, Any],
        space: SearchSpace,
        survey: DataSurvey,
        folders: WorkFolders,
    ) -> tuple[dict[str, str], NetworkFacts]:
        """Write every network that trials may use into the inputs folder and check each."""
        height, width = _input_size(base)
        num_classes = self.options.data.classes or survey.coding.num_classes
        num_outputs = num_classes if num_classes > 2 else 1
        names = [str(choice) for choice in space.choices("layers")] or [self._layers(base)]
        files: dict[str, str] = {}
        first: NetworkFacts | None = None
        for name in names:
            path = self._layers_file(name)
            if path is not None:
                graph = load_network(path)
                text = path.read_text(encoding="utf-8")
            else:
                channels = 1 if survey.is_gray and not name.startswith("resunet") else 3
                network = network_json(name, (height, width, channels), num_outputs)
                graph, text = _parse(network, name), json.dumps(network)
            file = f"layers_{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
            folders.inputs.mkdir(parents=True, exist_ok=True)
            write_atomic(folders.inputs / file, text)
            files[name] = file
            _match_channels(base, graph)
            facts = self._check(base, space, graph, survey)
            first = first or facts
        assert first is not None
        return files, first

    def _layers(self, base: dict[str, Any]) -> str:
        named = self.options.data.layers or base.get("layers") or self.file.layers
        if named is not None:
            return str(named)
        return str(DEFAULT_LAYERS) if DEFAULT_LAYERS.exists() else BUILTIN_LAYERS

    def _layers_file(self, name: str) -> Path | None:
        """Return the network file that a name means, None for a built-in network."""
        if Path(name).is_file():
            return Path(name)
        if self.study_dir is not None and (self.study_dir / name).is_file():
            return self.study_dir / name
        return None if is_builtin(name) else Path(name)

    def _check(
        self, base: dict[str, Any], space: SearchSpace, graph: Graph, survey: DataSurvey
    ) -> NetworkFacts:
        """Check network, masks and every sampled loss against each other."""
        height, width = _input_size(base)
        channels = 1 if get_path(base, "data.input_grayscale") else 3
        facts = check_network(graph, (height, width, channels))
        for function in space.choices("loss.function") or (None,):
            config = parse_base(base, space, loss=function)
            base["loss"]["source"] = resolve_activation(config, facts)
            if base["loss"]["source"] == "linear":
                del base["loss"]["source"]
            check_fit(facts, survey.coding, config, (height, width))
        return facts

    def _weights(self, folders: WorkFolders) -> str | None:
        """Bring the weights to start from into the inputs folder."""
        path = self.options.data.transfer_learning
        if path is None:
            return None
        if not path.is_file():
            raise UsageError(f"--transfer-learning: no such file: {path}")
        name = f"weights_{_hash(path)}{path.suffix}"
        target = folders.inputs / name
        if not target.exists():
            aside = target.with_name(f".{name}.{os.getpid()}.tmp")
            shutil.copyfile(path, aside)
            aside.replace(target)
        return name


def parse_base(
    base: dict[str, Any], space: SearchSpace, *, loss: Scalar | None = None
) -> NeuralNetwork:
    """Check the base config as the worker will, with the first choice of what is sampled."""
    chosen: dict[str, Any] = {
        d.key: unpack(d.values.choices[0]) if isinstance(d.values, Categorical) else d.values.low
        for d in space.dimensions
        if d.when is None
    }
    if loss is not None:
        chosen["loss.function"] = loss
    config = build_config(base, chosen)
    config.setdefault("layers", "layers.json")
    for key in ("input_path", "target_path", "test_input_path", "test_target_path"):
        config["data"].setdefault(key, key)
    optimizer = config["optimizer"]
    model = OPTIMIZERS.get(str(optimizer.get("type")))
    if model is not None and "optimizer.type" in chosen:
        config["optimizer"] = {k: v for k, v in optimizer.items() if k in model.model_fields}
    return parse_config({"neural_network": config}, "config")


def _with_choice(
    space: SearchSpace, base: dict[str, Any], key: str, names: tuple[str, ...]
) -> SearchSpace:
    """Sample `key` from `names`, in the order that conditions need; one name fixes it."""
    if len(names) == 1:
        set_path(base, key, names[0])
        return SearchSpace(tuple(d for d in space.dimensions if d.key != key))
    new = Dimension(key, Categorical(names))
    others = tuple(d for d in space.dimensions if d.key != key)
    return SearchSpace((new, *others))


def _can_hold(space: SearchSpace, base: dict[str, Any], when: tuple[str, Any]) -> bool:
    key, value = when
    return value in space.choices(key) if space.is_sampled(key) else get_path(base, key) == value


def _names(text: str, known: tuple[str, ...], where: str) -> tuple[str, ...]:
    spelling = {name.lower(): name for name in known}
    names = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part.lower() not in spelling:
            raise UsageError(f"{where}: unknown name {part!r}; {hint(part, known)}")
        names.append(spelling[part.lower()])
    if not names:
        raise UsageError(f"{where}: expected names among {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*[,x]\s*(\d+)\s*", text)
    if match is None or "0" in (match[1], match[2]):
        raise UsageError(f"--resize: expected H,W such as 256,256, not {text!r}")
    return int(match[1]), int(match[2])


def _input_size(base: dict[str, Any]) -> tuple[int, int]:
    for entry in reversed(get_path(base, "data.transforms", [])):
        if isinstance(entry, dict) and "resize" in entry:
            height, width = entry["resize"]
            return int(height), int(width)
    raise ConfigError("data.transforms: a search needs a resize, see --resize")


def _match_channels(base: dict[str, Any], graph: Graph) -> None:
    """Read the images with as many channels as the network takes, unless the user said how."""
    if "input_grayscale" not in base["data"] and "grayscale" not in base["data"]:
        base["data"]["input_grayscale"] = graph.input_shape[-1] == 1


def _parse(network: dict[str, Any], name: str) -> Graph:
    from trainer.networks import parse_network

    return parse_network(network, name)


def _folder_name(root: Path) -> str:
    return root.parent.name if root.name == DEFAULT_DATA.name and root.parent.name else root.name


def _optional_tuple(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list | tuple) else None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def with_num_trials(spec: StudySpec, num_trials: int) -> StudySpec:
    """Return the spec with another total."""
    return replace(spec, num_trials=num_trials)
