"""Turns options, study file and data into a checked `StudySpec`, before any worker is paid for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import studies
from hpo.dataplan import find_data, split_validation, survey_data
from hpo.errors import UsageError
from hpo.inputs import (
    NetworkRequest,
    bring_networks,
    bring_weights,
    check_fields,
    hash_files,
    hash_text,
)
from hpo.options import Options
from hpo.space import Categorical, Dimension, SearchSpace, checked_range, parse_search
from hpo.spec import StudySpec, WorkFolders
from hpo.studyfile import TUTORIAL, StudyFile, find_study, load_study
from studies.prepare.groups import GROUPS, read_groups
from trainer.config import LOSSES, OPTIMIZERS
from trainer.config_errors import hint
from trainer.keypath import get_path, parse_setting, set_path
from trainer.rundir import CHECKPOINTS

DEFAULT_DATA = Path("data")
DEMO = "demo"
MAX_NAME_LENGTH = 100

SPELLED = {"optimizer.type": tuple(OPTIMIZERS), "loss.function": LOSSES}
# Fields that a study decides for each trial, and what the user may say instead.
OWNED = {
    "seed": "use --seed",
    "outfile": "its logs are in the trial's run folder",
    "relative_to": "paths are its own",
    "checkpoints.save": "the best checkpoint goes to best_model/",
    "checkpoints.load": "use --transfer-learning",
    "data.input_path": "use --data",
    "data.target_path": "use --data",
    "data.test_input_path": "use --data",
    "data.test_target_path": "use --data",
    "data.test_output_path": "use rmldnn --predict best_model",
}

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
        self._refuse_options_without_effect()
        select_on = options.data.select_on or file.select_on
        name, root, folders = self._place()
        data = find_data(root, needs_test=select_on == "test")
        base = self._base_config()
        data = replace(data, follow_symlinks=get_path(base, "data.follow_symlinks", False) is True)
        space = self._space(base)
        survey = survey_data(
            data,
            cache=folders.study / "survey.json",
            mask_values=_optional_tuple(get_path(base, "data.mask_values")),
            mask_threshold=get_path(base, "data.mask_threshold"),
            progress=self.progress,
        )
        fraction, group_by, trained = None, None, data
        if select_on == "validation":
            fraction = options.data.validation_fraction or file.validation_fraction
            group_by = options.data.group_by or file.group_by
            pattern, table = group_by, read_groups(data.root)
            if pattern is None and table:
                group_by = f"{GROUPS}, hash {hash_text(repr(sorted(table.items())))}"
            identity = hash_text(f"{survey.fingerprint} {fraction} {group_by}")
            trained = split_validation(
                data, folders.split(identity), fraction=fraction, group_by=pattern
            )
        check_fields(base, space)
        fixed_layers = base.pop("layers", None)
        is_synthetic = file.generator is not None and options.data.data is None
        layers = str(options.data.layers or fixed_layers or file.layers or "")
        classes = options.data.classes
        networks, facts = bring_networks(
            NetworkRequest(layers, self.study_dir, classes), base, space, survey, folders.inputs
        )
        weights = bring_weights(options.data.transfer_learning, folders.inputs)
        return StudySpec(
            name=name,
            title=file.title if is_synthetic or file.generator is None else TUTORIAL.title,
            is_synthetic=is_synthetic,
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
            group_by=group_by,
            pruner=options.search.pruner or file.pruner,
            sampler=options.search.sampler,
            seed=options.search.seed,
            hashes=hash_files(
                folders.inputs,
                [
                    *(network.file for network in networks.values()),
                    *([weights] if weights else []),
                ],
            ),
        )

    def _refuse_options_without_effect(self) -> None:
        data = self.options.data
        if (data.select_on or self.file.select_on) == "validation":
            return
        for name, value in (
            ("--validation-fraction", data.validation_fraction),
            ("--group-by", data.group_by),
        ):
            if value is not None:
                raise UsageError(f"{name} has no effect without --select-on validation; add it")

    def _place(self) -> tuple[str, Path, WorkFolders]:
        """Return study name, data folder and work folders; generate data where a study does."""
        options, generator = self.options, self.file.generator
        output = options.output.output_dir.absolute()
        name = options.output.study_name
        if name is not None and (
            not re.fullmatch(r"[\w][\w .+-]*", name) or len(name) > MAX_NAME_LENGTH
        ):
            raise UsageError(f"--study-name {name!r}: use letters, digits, '_', '-', '.', '+'")
        if options.data.data is None and generator is not None:
            folders = WorkFolders(output=output, study=output / "runs" / (name or generator))
            root = folders.study / "data"
            studies.GENERATORS[generator](root)
            return name or generator, root, folders
        root = (options.data.data or DEFAULT_DATA).absolute()
        if name is None:
            name = self.study_dir.name if self.study_dir else _folder_name(root)
            name = re.sub(r"[^\w .+-]|^[^\w]", "_", name)[:MAX_NAME_LENGTH]
        return name, root, WorkFolders(output=output, study=output / "runs" / name)

    def _base_config(self) -> dict[str, Any]:
        """Return the fixed part of the `neural_network` object, without paths."""
        search, data = self.options.search, self.options.data
        base: dict[str, Any] = {
            "outfile": "out.txt",
            "num_epochs": search.num_epochs or self.file.num_epochs,
            "checkpoints": {
                "save": f"{CHECKPOINTS}/",
                "interval": 1,
                "keep": "best",
                "resume": True,  # who takes a trial over goes on where it was
            },
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
            _refuse_owned(key, "--set")
            set_path(base, key, value)
        for key, known in SPELLED.items():
            value = get_path(base, key)
            if isinstance(value, str):
                set_path(base, key, _names(value, known, key)[0])
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
            low = 0.001 if search.lr_range_min is None else search.lr_range_min
            high = 0.01 if search.lr_range_max is None else search.lr_range_max
            where = "--lr-range-min, --lr-range-max"
            values = checked_range(low, high, is_integer=False, log=True, step=None, where=where)
            space = space.with_dimension(Dimension("optimizer.learning_rate", values))
        for text in search.search or ():
            dimension = parse_search(text)
            _refuse_owned(dimension.key, "--search")
            space = space.with_dimension(_spelled(dimension))
        fixed = {parse_setting(text)[0] for text in search.set or ()}
        kept = tuple(
            d
            for d in space.dimensions
            if d.key not in fixed and (d.when is None or _can_hold(space, base, d.when))
        )
        if not kept:
            raise UsageError("nothing is searched: every field is fixed; see --search")
        return SearchSpace(kept)


def _refuse_owned(key: str, where: str) -> None:
    for owned, remedy in OWNED.items():
        if key == owned or key.startswith(f"{owned}."):
            raise UsageError(f"{where} {key}: decided by the search itself; {remedy}")


def _spelled(dimension: Dimension) -> Dimension:
    """Write the names of optimizers and losses as the contract does, whatever their case."""
    known = SPELLED.get(dimension.key)
    if known is None or not isinstance(dimension.values, Categorical):
        return dimension
    text = ",".join(str(choice) for choice in dimension.values.choices)
    names = _names(text, known, f"--search {dimension.key}")
    return Dimension(dimension.key, Categorical(names), dimension.when)


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


def _folder_name(root: Path) -> str:
    return root.parent.name if root.name == DEFAULT_DATA.name and root.parent.name else root.name


def _optional_tuple(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list | tuple) else None
