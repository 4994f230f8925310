"""Finds what the parts of a data set share: images, copies of images, patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpo.data.facts import CheckedPair, DataCheck
from hpo.dataset.near_duplicates import find_near_duplicates
from hpo.dataset.split import group_of
from studies.prepare.groups import read_groups
from studies.prepare.samples import shown
from studies.prepare.similarity import similar_pairs


def judge_leaks(
    checked: Sequence[CheckedPair], root: Path, group: str | None, check: DataCheck
) -> None:
    """Find what is in more than one part."""
    by_digest: dict[str, dict[str, str]] = {}
    for entry in checked:
        by_digest.setdefault(entry.digest, {})[entry.part] = entry.pair.name
    between = "both" if len(check.num_pairs) < 3 else "several"
    same = [" = ".join(parts.values()) for parts in by_digest.values() if len(parts) > 1]
    if same:
        check.problems.append(f"{len(same)} images are in {between} parts: {shown(same)}")
    pairs = similar_pairs([entry.small for entry in checked])
    across = [
        f"{checked[i].pair.name} ~ {checked[j].pair.name}"
        for i, j in pairs
        if checked[i].part != checked[j].part and checked[i].digest != checked[j].digest
    ]
    for part in check.num_pairs:
        members = [entry for entry in checked if entry.part == part]
        check.near_duplicates += find_near_duplicates(
            [entry.pair.name for entry in members], [entry.small for entry in members]
        )
    if across:
        check.problems.append(f"{len(across)} near-duplicates across the parts: {shown(across)}")
    table = read_groups(root)
    parts_of: dict[str, set[str]] = {}
    for entry in checked:
        patient = (
            table.get(entry.pair.stem) if group is None else group_of(entry.pair, group, "--group")
        )
        if patient is not None:
            parts_of.setdefault(patient, set()).add(entry.part)
    both = sorted(name for name, parts in parts_of.items() if len(parts) > 1)
    if both:
        check.problems.append(f"{len(both)} groups are in {between} parts: {shown(both)}")
