"""Decides on which images trials are compared: the test images, or a validation part."""

from __future__ import annotations

from dataclasses import dataclass

from hpo.dataset.datafolder import DataFolder
from hpo.dataset.intervals import Grouping
from hpo.dataset.scored_parts import Scoring
from hpo.dataset.split import (
    check_validation,
    place_validation,
    split_validation,
    validation_folder,
)
from hpo.dataset.survey import NOT_SURVEYED, DataSurvey
from hpo.folders import WorkFolders
from hpo.plan.inputs import hash_text
from hpo.plan.options import DataOptions
from hpo.plan.studyfile import StudyFile
from hpo.scoring_rules import SCORING_RULES
from studies.prepare.groups import GROUPS, read_groups


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What workers read, and how it was split.

    Attributes:
        trained: the folder with the images that trials are trained on and compared on.
        grouping: which images are of one patient.
        fraction: of the training images that are split off, None where none are.
        group_by: what that split kept together: a pattern, or the table's hash.
        warnings: what the user should know.
    """

    trained: DataFolder
    grouping: Grouping
    fraction: float | None = None
    group_by: str | None = None
    warnings: tuple[str, ...] = ()


def select_images(
    options: DataOptions,
    file: StudyFile,
    data: DataFolder,
    survey: DataSurvey,
    scoring: Scoring,
    folders: WorkFolders,
) -> Selection:
    """Decide where trials are compared, and put a validation part into the study's folder.

    Raises:
        UsageError: too few images, or a pattern that does not match.
        DataError: what pairing raises.
    """
    if data.validation is not None:
        return _own_part(options, file, data, survey, folders)
    if (options.select_on or file.select_on) == "validation":
        return _split_off(options, file, data, survey, scoring, folders)
    return Selection(trained=data, grouping=Grouping(data.root, None))


def _own_part(
    options: DataOptions,
    file: StudyFile,
    data: DataFolder,
    survey: DataSurvey,
    folders: WorkFolders,
) -> Selection:
    """Take the validation part that the data folder has."""
    grouping = Grouping(data.root, options.group_by or file.group_by)
    warnings = check_validation(data, survey, grouping, fraction=options.validation_fraction)
    hashes = f"{survey.fingerprint} {survey.validation_fingerprint}"
    trained = place_validation(data, folders.split(hash_text(hashes)))
    return Selection(trained=trained, grouping=grouping, warnings=tuple(warnings))


def _split_off(
    options: DataOptions,
    file: StudyFile,
    data: DataFolder,
    survey: DataSurvey,
    scoring: Scoring,
    folders: WorkFolders,
) -> Selection:
    """Split a validation part off the training images."""
    fraction = options.validation_fraction or file.validation_fraction
    pattern = group_by = options.group_by or file.group_by
    table = read_groups(data.root)
    if pattern is None and table:
        group_by = f"{GROUPS}, hash {hash_text(repr(sorted(table.items())))}"
    classes_of = {
        name: scoring.classes_in(values) for name, values in survey.values.get("train", {}).items()
    }
    shown = hash_text(repr(sorted((n, sorted(c)) for n, c in classes_of.items())))
    target = folders.split(
        hash_text(f"{survey.fingerprint} {fraction} {group_by} {SCORING_RULES} {shown}")
    )
    if survey.fingerprint != NOT_SURVEYED:
        split_validation(
            data,
            target,
            fraction=fraction,
            group_by=pattern,
            classes_of=classes_of,
            alike=survey.alike,
        )
    return Selection(
        trained=validation_folder(target),
        grouping=Grouping(data.root, pattern),
        fraction=fraction,
        group_by=group_by,
    )
