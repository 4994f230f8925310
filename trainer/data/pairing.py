"""Pairs the arrays of inputs and targets by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainer.config import Data
from trainer.data.arrays import Source, list_sources, split_name
from trainer.data.images import MASK_ENDINGS
from trainer.data.slicing import Slice, cut_up
from trainer.errors import DataError


@dataclass(frozen=True)
class Sample:
    """An input and, where it is known, its target: whole arrays, or slices of both."""

    name: str
    input: Source
    target: Source | None
    slice: Slice | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array, or of what is cut out of it."""
        return self.input.shape if self.slice is None else self.slice.shape


def list_part(
    data: Data, input_path: Path, target_path: Path | None, key: str, notes: list[str]
) -> list[Sample]:
    """Pair the arrays of a part: files by name (whatever their suffix), arrays in them by name.

    Where inputs and targets are one array each, their names do not matter.

    Raises:
        DataError: see `list_sources`; an input without a target.
    """
    listed = partial(list_sources, kind=data.inputs, follow_symlinks=data.follow_symlinks)
    inputs, skipped = listed(input_path, key=f"{key}input_path")
    notes.extend(skipped)
    pairs: list[tuple[Source, Source | None]] = [(source, None) for source in inputs]
    if target_path is not None:
        targets, skipped = listed(target_path, key=f"{key}target_path")
        notes.extend(skipped)
        pairs = _pair(inputs, targets, input_path, target_path)
    if not data.slicers:
        return [
            Sample(sample_name(source, input_path), source, target) for source, target in pairs
        ]
    target_of = dict(pairs)
    return [
        Sample(entry.name, entry.source, target_of[entry.source], entry)
        for entry in cut_up(inputs, data.slicers)
    ]


def sample_name(source: Source, root: Path) -> str:
    """Name a sample: after its file, its data set, or both where there are several of both."""
    if not source.key:
        return source.path.name
    return f"{source.path.name}/{source.key}" if root.is_dir() else source.key


def _pair(
    inputs: Sequence[Source], targets: Sequence[Source], input_path: Path, target_path: Path
) -> list[tuple[Source, Source | None]]:
    own = sorted({str(source) for source in inputs}.intersection(map(str, targets)))
    if own:
        raise DataError(
            f"{own[0]} is an input and its own target: name the arrays, data.input_path "
            f"{inputs[0].path}/NAME, data.target_path {targets[0].path}/NAME, or use two folders"
        )
    if len(inputs) == len(targets) == 1:
        return [(inputs[0], targets[0])]
    by_files = input_path.is_dir() and target_path.is_dir()
    groups = [split_name(path)[1] for path in (input_path, target_path)]

    def identity(source: Source, ending: str = "") -> tuple[str, str]:
        group = next((name for name in groups if source.key.startswith(f"{name}/")), "")
        return (
            source.path.stem + ending if by_files else "",
            source.key.removeprefix(group).lstrip("/"),
        )

    known: dict[tuple[str, str], Source] = {}
    for target in targets:
        other = known.setdefault(identity(target), target)
        if other is not target:
            raise DataError(f"{other} and {target} are targets of the same name; remove one")
    pairs: list[tuple[Source, Source | None]] = []
    without = []
    for source in inputs:
        ids = (identity(source, ending) for ending in MASK_ENDINGS)
        found = next((known[name] for name in ids if name in known), None)
        pairs.append((source, found))
        if found is None:
            without.append(str(source))
    if without:
        raise DataError(
            f"{len(without)} of {len(inputs)} arrays have no target of the same name in "
            f"{target_path}: {', '.join(without[:5])}"
        )
    return pairs
