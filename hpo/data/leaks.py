"""Finds what the parts of a data set share: images, copies of images, patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpo.data.facts import CheckedPair, DataCheck
from hpo.dataset.near_duplicates import find_near_duplicates
from hpo.dataset.split import group_of
from studies.prepare.groups import GROUPS, read_groups
from studies.prepare.samples import shown
from studies.prepare.similarity import similar_pairs
from trainer.wording import counted

REMEDY = "keep each in one part only, or split all images anew (rml-data prepare folder --help)"


def judge_leaks(
    checked: Sequence[CheckedPair], root: Path, group: str | None, check: DataCheck
) -> None:
    """Find what is in more than one part."""
    between = "both" if len(check.num_pairs) < 3 else "several"
    by_digest: dict[str, dict[str, str]] = {}
    for entry in checked:
        by_digest.setdefault(entry.digest, {})[entry.part] = _place(entry)
    same = [" = ".join(parts.values()) for parts in by_digest.values() if len(parts) > 1]
    if same:
        check.problems.append(
            f"{counted(len(same), 'image is', 'images are')} in {between} parts: {shown(same)}; "
            f"{REMEDY}"
        )
    across = [
        f"{_place(checked[i])} ~ {_place(checked[j])}"
        for i, j in similar_pairs([entry.small for entry in checked])
        if checked[i].part != checked[j].part and checked[i].digest != checked[j].digest
    ]
    for part in check.num_pairs:
        members = [entry for entry in checked if entry.part == part]
        clusters = find_near_duplicates(
            [entry.pair.name for entry in members], [entry.small for entry in members]
        )
        check.near_duplicates += clusters
        check.near_duplicates_in += [part] * len(clusters)
    if across:
        check.problems.append(
            f"{counted(len(across), 'pair')} of near-duplicates across the parts: "
            f"{shown(across)}; {REMEDY}"
        )
    _judge_patients(checked, root, group, check, between)


def _place(entry: CheckedPair) -> str:
    return f"{entry.pair.name} ({entry.part})"


def _judge_patients(
    checked: Sequence[CheckedPair], root: Path, group: str | None, check: DataCheck, between: str
) -> None:
    table = read_groups(root)
    parts_of: dict[str, dict[str, str]] = {}  # patient -> part -> an image
    unknown: list[str] = []
    for entry in checked:
        patient = (
            table.get(entry.pair.stem) if group is None else group_of(entry.pair, group, "--group")
        )
        if patient is None:
            unknown.append(entry.pair.name)
        else:
            parts_of.setdefault(patient, {}).setdefault(entry.part, entry.pair.name)
    shared = sorted(patient for patient, parts in parts_of.items() if len(parts) > 1)
    if shared:
        example = ", ".join(f"{name} ({part})" for part, name in parts_of[shared[0]].items())
        check.problems.append(
            f"{counted(len(shared), 'group is', 'groups are')} in {between} parts: "
            f"{shown(shared)} (such as {example}); move the images of each into one part, or "
            "split all anew (rml-data prepare folder … --group)"
        )
    if not parts_of:
        check.advice.append(
            f"patients were not looked for: neither {GROUPS} nor --group says which images are of "
            "one patient; if their names do, give --group REGEX here and --group-by REGEX to a "
            "search: the patient is what it matches, or its first group"
        )
    elif unknown:
        check.advice.append(
            f"{GROUPS} has no group for {counted(len(unknown), 'image')}, whose patients were not "
            f"looked for: {shown(unknown)}"
        )
