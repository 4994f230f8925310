"""Splits a validation part off the training images."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path, PurePosixPath

from hpo.dataset.content_hashes import Contents, is_split_of, write_manifest
from hpo.dataset.datafolder import DataFolder, Part
from hpo.dataset.intervals import Grouping
from hpo.dataset.stratify import choose_validation
from hpo.dataset.survey import DataSurvey, list_pairs
from hpo.errors import UsageError
from hpo.folders import CONTENTS, replace_folder
from studies.prepare.groups import read_groups
from trainer.data.images import Pair
from trainer.data.spelling import find_clash, ignores_case
from trainer.wording import counted

SPLIT_SEED = 0  # a constant: drivers of one study may have seeds of their own, never splits


def validation_folder(target: Path) -> DataFolder:
    """Return where a split in `target` has its parts; its test part is the validation part."""
    return DataFolder(
        target,
        Part(PurePosixPath("train/inputs"), PurePosixPath("train/targets")),
        Part(PurePosixPath("validation/inputs"), PurePosixPath("validation/targets")),
    )


def split_validation(
    folder: DataFolder,
    target: Path,
    *,
    fraction: float,
    group_by: str | None = None,
    classes_of: Mapping[str, Set[int]] | None = None,
    alike: Sequence[Sequence[str]] = (),
) -> DataFolder:
    """Split the training part into `target`/{train,validation}/{inputs,targets}.

    Files are hard links, or copies where the file system has none; never symbolic links, which
    lead nowhere inside a container. A finished split is used again while it and the data hold
    the same files; otherwise it is made anew.

    Args:
        folder: the data set.
        target: where the split goes; its `test` part is the validation part.
        fraction: share of the training images (of the groups, where given) that is split off.
        group_by: regular expression on the file's stem; images with the same match (its first
            group, if it has one) stay together, as slices of one patient must. Without it the
            groups are those of the data folder's `groups.csv`, if it has one.
        classes_of: the classes in each image's mask; both parts get all where they can.
        alike: stems of images that stay together where nobody says what is of one patient.

    Raises:
        UsageError: too few images, or a pattern that does not match some of them.
    """
    result = validation_folder(target)
    train, validation = result.train, result.test
    assert validation is not None
    pairs = list_pairs(folder, folder.train, "train ")
    contents = Contents(target.with_name(CONTENTS))
    files = {f"inputs/{pair.name}": pair.input for pair in pairs}
    files |= {f"targets/{pair.target_name}": pair.target for pair in pairs if pair.target}
    digests = contents.digests([*files.values()])
    sources = {name: digests[path] for name, path in files.items()}
    if target.is_dir() and is_split_of(target, sources, contents):
        return result
    table = read_groups(folder.root) if group_by is None else {}
    if not table:
        table = {stem: cluster[0] for cluster in alike for stem in cluster}
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        stem = pair.stem
        name = table.get(stem, stem) if group_by is None else group_of(pair, group_by)
        groups.setdefault(name, []).append(pair)
    names = sorted(groups)
    random.Random(SPLIT_SEED).shuffle(names)
    num_chosen = max(1, round(fraction * len(names)))
    if num_chosen >= len(names):
        raise UsageError(
            f"--validation-fraction {fraction:g} leaves nothing to train on: "
            f"{counted(len(pairs), 'image')} in {counted(len(names), 'group')}"
        )
    shown = {
        name: {c for pair in members for c in (classes_of or {}).get(pair.name, ())}
        for name, members in groups.items()
    }
    chosen = choose_validation(names, num_chosen, shown)
    _check_spellings(pairs, target)
    placed: dict[str, Path] = {}
    for name, members in groups.items():
        placed |= _places(members, validation if name in chosen else train)
    _make(target, placed, contents, lambda: is_split_of(target, sources, contents))
    return result


def place_validation(folder: DataFolder, target: Path) -> DataFolder:
    """Put a data folder's own validation part, with the training part, where a split would be.

    Raises:
        DataError: what pairing raises.
        UsageError: two files would be one.
    """
    result = validation_folder(target)
    assert folder.validation is not None
    assert result.test is not None
    placed: dict[str, Path] = {}
    for key, source, part in (
        ("train ", folder.train, result.train),
        ("validation ", folder.validation, result.test),
    ):
        pairs = list_pairs(folder, source, key)
        _check_spellings(pairs, target)
        placed |= _places(pairs, part)
    contents = Contents(target.with_name(CONTENTS))
    digests = contents.digests([*placed.values()])
    sources = {place: digests[path] for place, path in placed.items()}

    def is_there() -> bool:
        return is_split_of(target, sources, contents, by_part=True)

    if not target.is_dir() or not is_there():
        _make(target, placed, contents, is_there)
    return result


def check_validation(
    folder: DataFolder, survey: DataSurvey, grouping: Grouping, *, fraction: float | None
) -> list[str]:
    """Return a warning where patients are in the training and in the validation part.

    Raises:
        UsageError: a fraction is asked for, too; or a pattern that does not match some images.
    """
    assert folder.validation is not None
    name = folder.validation.inputs.parts[0]
    if fraction is not None:
        raise UsageError(
            f"--validation-fraction has no effect: {folder.root} has a validation part, {name}/; "
            f"leave the option out, or move {name}/ away to have one split off the training images"
        )
    images = {part: [*survey.values[part]] for part in ("train", "validation")}
    if grouping.pattern is not None:  # refused as where a part is split off
        for image in (*images["train"], *images["validation"]):
            _group_in(image, PurePosixPath(image).stem, grouping.pattern, "--group-by")
    train, validation = (set(grouping.groups_of(names)) for names in images.values())
    shared = sorted(group for group in train & validation if group.startswith("group "))
    if not shared:
        return []
    return [
        f"{counted(len(shared), 'patient is', 'patients are')} in the training images and in "
        f"{name}/ alike ({shared[0].removeprefix('group ')}, for one): the score "
        "of trials is too good"
    ]


def _places(pairs: Sequence[Pair], part: Part) -> dict[str, Path]:
    """Return where in a split the files of a part go."""
    places: dict[str, Path] = {}
    for pair in pairs:
        assert pair.target is not None
        places[str(part.inputs / pair.name)] = pair.input
        places[str(part.targets / pair.target_name)] = pair.target
    return places


def _make(
    target: Path, placed: Mapping[str, Path], contents: Contents, is_there: Callable[[], bool]
) -> None:
    """Make a split aside and put it in place, unless another driver was faster."""
    digests = contents.digests([*placed.values()])
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.urandom(8).hex()}.tmp")
    try:
        for place, source in placed.items():
            _link(source, aside / place)
        write_manifest(aside, {place: digests[source] for place, source in placed.items()})
        if target.is_dir() and not is_there():
            replace_folder(aside, target)  # linked to files that were changed in place since
        else:
            # another driver on this folder may have been faster, with the same split
            with contextlib.suppress(OSError):
                aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for place, source in placed.items():
        contents.linked(source, target / place)
    contents.save()


def group_of(pair: Pair, pattern: str, option: str = "--group-by") -> str:
    """Return what a pattern, or its first group, matches in an image's name.

    Raises:
        UsageError: it matches nothing, or is no regular expression.
    """
    return _group_in(pair.name, pair.stem, pattern, option)


def _group_in(name: str, stem: str, pattern: str, option: str) -> str:
    try:
        match = re.search(pattern, stem)
    except re.error as error:
        raise UsageError(f"{option} {pattern!r}: not a regular expression ({error})") from None
    if match is None:
        raise UsageError(f"{option} {pattern!r} does not match {name}")
    return str(match[1] if match.re.groups else match[0])


def _check_spellings(pairs: Sequence[Pair], target: Path) -> None:
    clash = find_clash(pair.name for pair in pairs) or find_clash(p.target_name for p in pairs)
    if clash is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if ignores_case(target.parent):
        raise UsageError(
            f"the file system of {target.parent} takes {clash[0]!r} and {clash[1]!r} for one "
            "name, so one would replace the other; rename one, or choose another --output-dir"
        )


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)
