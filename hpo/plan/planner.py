"""Turns options, study file and data into a checked `StudySpec`, before any worker starts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import studies
from hpo.dataset.datafolder import LAYOUTS, DataFolder, find_data
from hpo.dataset.scored_parts import (
    check_coding,
    check_parts,
    refuse_absent_class,
    scored_parts,
    scoring_of,
)
from hpo.dataset.survey import DataSurvey, survey_data
from hpo.dataset.trivial_baseline import trivial_scores
from hpo.errors import UsageError
from hpo.folders import WorkFolders, other_spelling
from hpo.objective import parse_objective
from hpo.plan.base_config import base_config, search_space
from hpo.plan.choices import check_name, refuse_unsearchable
from hpo.plan.first_trials import first_trials
from hpo.plan.inputs import (
    NetworkRequest,
    bring_networks,
    check_fields,
    hash_files,
    refuse_other_data,
)
from hpo.plan.like import like_trials
from hpo.plan.objectives import measure
from hpo.plan.options import DataOptions, Options, SearchOptions
from hpo.plan.pruners import DEFAULT_PRUNER, PRUNERS, known_pruners, make_pruner
from hpo.plan.samplers import SAMPLERS, known_samplers, make_sampler
from hpo.plan.scoring import AT_SIZE, settle_score
from hpo.plan.selection import select_images
from hpo.plan.spec import StudySpec
from hpo.plan.studyfile import TUTORIAL, StudyFile, find_study, load_study
from hpo.plan.trackers import chosen_trackers
from hpo.plan.weights import find_weights
from hpo.store.budget import OPEN_ENDED
from trainer.figures import DICE_DATASET
from trainer.keypath import get_path
from trainer.wording import counted

DEFAULT_DATA = Path("data")
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


def restore_inputs(spec: StudySpec, options: Options) -> None:
    """Write a study's inputs again, which somebody has removed.

    Raises:
        UsageError, ConfigError, DataError, NetworkError: what they were made from has changed.
    """
    search = replace(options.search, like=None)  # what is tried first is in the study by now
    plan = make_plan(replace(options, search=search))
    plan = replace(plan, pruner=spec.pruner)  # the study's, which may be an earlier default
    if plan.identity() != spec.identity():
        raise UsageError(
            f"{spec.folders.study} was removed while the search ran, and networks, weights or "
            "data have changed since; bring them back, or give the search another --study-name"
        )


def _choose_study(options: Options) -> tuple[StudyFile, Path | None]:
    """Return the study of `--study`, the demo where there is nothing else, or the tutorial's."""
    if options.data.small and options.data.study is None:
        raise UsageError("--small is about a study's settings; add --study NAME")
    has_no_data = (
        options.data.data is None and options.data.study is None and not DEFAULT_DATA.exists()
    )
    wants_demo = has_no_data and (options.search, options.data) == (SearchOptions(), DataOptions())
    if has_no_data and not wants_demo:
        raise UsageError(
            f"no data: there is no folder {DEFAULT_DATA}/ here; name one with --data, or search "
            "the demo's synthetic images with --study demo"
        )
    name = DEMO if wants_demo else options.data.study
    if name is None:
        return TUTORIAL, None
    folder = find_study(name)
    return load_study(folder, small=options.data.small), folder


@dataclass
class _Planner:
    options: Options
    file: StudyFile
    study_dir: Path | None
    progress: Progress

    def plan(self) -> StudySpec:
        options, file = self.options, self.file
        self._refuse_options_without_effect()
        search = options.search
        check_name(search.sampler, known_samplers(), "--sampler")
        check_name(search.pruner or file.pruner or DEFAULT_PRUNER, known_pruners(), "--pruner")
        trackers = chosen_trackers(options.output.tracker, file.tracker)
        select_on = options.data.select_on or file.select_on
        name, root, folders = self._place()
        named = file.objective if search.objective is None else search.objective
        objective = parse_objective(DICE_DATASET if named is None else named)
        base = base_config(file, options.search, options.data)
        measure(objective, base)
        space = search_space(file, options.search, options.data, base)
        refuse_unsearchable(space)
        refuse_other_data(base, space)
        warnings = settle_score(base, space)
        weights = find_weights(
            options.data.transfer_learning, file.transfer_learning, self.study_dir
        )
        data, survey = self._survey(root, folders, base, select_on=select_on)
        scoring = scoring_of(base, survey.coding)
        warnings += check_coding(scoring)
        selection = select_images(options.data, file, data, survey, scoring, folders)
        warnings += selection.warnings
        by_pixels = get_path(base, AT_SIZE) == "images"
        parts = scored_parts(data, selection.trained, survey, scoring, by_pixels=by_pixels)
        warnings += check_parts(parts, scoring)
        if objective.of_class is not None:
            compared = [each for each in parts if each.name == f"{select_on} images"]
            refuse_absent_class(objective.of_class, compared, scoring)
        if select_on == "test":
            warnings.append(
                "trials are compared on the test images, so the score of the best one will be "
                "optimistic; --select-on validation gives one to report"
            )
        if unmatched := selection.grouping.unmatched([*survey.values.get("test", {})]):
            warnings.append(
                f"--group-by does not match {counted(len(unmatched), 'test image')} "
                f"({unmatched[0]}, for one): each counts as a patient of its own in "
                "the interval of the test score"
            )
        first = first_trials(file, search, space, base)
        if search.like is not None:
            tried = like_trials(search.like, options.output, space, name, warnings.append)
            num_tries = len(search.try_first or ())
            first = (*first[:num_tries], *tried, *first[num_tries:])
        first = tuple({each.text: each for each in first}.values())
        check_fields(base, space)
        fixed_layers = base.pop("layers", None)
        is_synthetic = file.generator is not None and options.data.data is None
        layers = str(options.data.layers or fixed_layers or file.layers or "")
        classes = options.data.classes
        networks, facts = bring_networks(
            NetworkRequest(layers, self.study_dir, classes), base, space, survey, folders.inputs
        )
        if weights is not None:
            weights.check_fit(networks)
            weights.bring(folders.inputs)
        spec = StudySpec(
            name=name,
            title=file.title if is_synthetic or file.generator is None else TUTORIAL.title,
            is_synthetic=is_synthetic,
            folders=folders,
            data=data,
            survey=survey,
            trained=selection.trained,
            base=base,
            networks=networks,
            weights=weights,
            facts=facts,
            space=space,
            num_trials=self._num_trials(),
            hours=self._hours(),
            num_epochs=base["num_epochs"],
            select_on=select_on,
            objective=objective,
            validation_fraction=selection.fraction,
            group_by=selection.group_by,
            grouping=selection.grouping,
            pruner=options.search.pruner or file.pruner or DEFAULT_PRUNER,
            names_pruner=bool(options.search.pruner or file.pruner),
            sampler=options.search.sampler,
            shares_ranges=file.share_ranges
            if search.share_ranges is None
            else search.share_ranges,
            first=first,
            seed=options.search.seed,
            trackers=trackers,
            published=str(file.published) if file.published else None,
            hashes=hash_files(
                folders.inputs,
                [
                    *(network.file for network in networks.values()),
                    *([weights.file] if weights else []),
                ],
            ),
            warnings=tuple(warnings),
            trivial={
                part.name: trivial_scores(
                    part, scoring, has_one_channel=facts.output_shape[-1] == 1
                )
                for part in parts
            },
        )
        # Plug-ins that cannot be used are refused before any worker is started.
        if spec.sampler not in SAMPLERS:
            make_sampler(spec, 0)
        if spec.pruner not in PRUNERS:
            make_pruner(spec)
        return spec

    def _hours(self) -> float | None:
        hours = self.options.search.hours
        if hours is not None and not 0 < hours < math.inf:
            raise UsageError(f"--hours: expected a number above 0, received {hours:g}")
        return self.file.hours if hours is None else hours

    def _num_trials(self) -> int:
        """Return how many trials; where time is the limit, a default is none."""
        search, file = self.options.search, self.file
        if search.num_trials is not None:
            return search.num_trials
        is_named = search.hours is None and "num_trials" in file.model_fields_set
        return file.num_trials if is_named or self._hours() is None else OPEN_ENDED

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
        output = options.output.output_dir
        name = options.output.study_name
        if name is not None and (
            not re.fullmatch(r"[\w][\w .+-]*", name) or len(name) > MAX_NAME_LENGTH
        ):
            raise UsageError(f"--study-name {name!r}: use letters, digits, '_', '-', '.', '+'")
        if options.data.data is None and generator is not None:
            folders = WorkFolders.of(output, name or generator)
            root = folders.generated
            studies.GENERATORS[generator](root)
            return name or generator, root, folders
        root = (options.data.data or DEFAULT_DATA).absolute()
        if name is None:
            name = self.study_dir.name if self.study_dir else _folder_name(root)
            name = re.sub(r"[^\w .+-]|^[^\w]", "_", name)[:MAX_NAME_LENGTH]
        folders = WorkFolders.of(output, name)
        if other := other_spelling(folders.study):
            raise UsageError(
                f"--study-name {name}: on this file system its folder would be that of study "
                f"{other!r}; choose another name, or another --output-dir"
            )
        return name, root, folders

    def _survey(
        self, root: Path, folders: WorkFolders, base: dict[str, Any], *, select_on: str
    ) -> tuple[DataFolder, DataSurvey]:
        """Find the data and read them all; a dry run of a study may do without."""
        file, is_ours = self.file, self.options.data.data is None
        if is_ours and file.source is not None and not root.is_dir():
            if file.data is not None and self.options.output.dry_run:
                return DataFolder(root, *LAYOUTS[0]), file.data.survey()
            raise UsageError(
                f"--data: no such folder: {root}; the images of this study are at "
                f"{file.source.page}; unpack them and run: {file.source.prepare}"
            )
        data = find_data(
            root, needs_test=select_on == "test", wants_validation=select_on == "validation"
        )
        data = replace(data, follow_symlinks=get_path(base, "data.follow_symlinks", False) is True)
        survey = survey_data(
            data,
            cache=folders.survey,
            mask_values=_optional_tuple(get_path(base, "data.mask_values")),
            mask_threshold=get_path(base, "data.mask_threshold"),
            progress=self.progress,
        )
        return data, survey


def _folder_name(root: Path) -> str:
    return root.parent.name if root.name == DEFAULT_DATA.name and root.parent.name else root.name


def _optional_tuple(value: Any) -> tuple[int, ...] | None:
    return tuple(value) if isinstance(value, list | tuple) else None
