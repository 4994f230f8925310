"""Draws the test part: whole groups, by seed, within each stratum."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence


def merge_groups(groups: Sequence[str], pairs: Iterable[tuple[int, int]]) -> list[str]:
    """Return each sample's group after merging those that a pair of samples connects."""
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for first, second in pairs:
        one, other = sorted((root(groups[first]), root(groups[second])))
        parent[other] = one
    return [root(group) for group in groups]


def draw_test_groups(
    groups: Sequence[str], strata: Mapping[str, str], *, fraction: float, seed: int
) -> set[str]:
    """Choose groups whose samples come as near to `fraction` as whole groups can.

    Args:
        groups: the group of each sample.
        strata: the stratum of each group; a share of each is chosen.
        fraction: share of the samples.
        seed: of the order in which groups are tried.

    Returns:
        The chosen groups: at least one, and never all, where there are two or more.
    """
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    chosen: set[str] = set()
    for stratum in sorted(set(strata.values())):
        members = sorted(group for group in sizes if strata[group] == stratum)
        random.Random(f"{seed} {stratum}").shuffle(members)
        target = fraction * sum(sizes[group] for group in members)
        count = 0
        for group in members:
            if abs(count + sizes[group] - target) < abs(count - target):
                chosen.add(group)
                count += sizes[group]
    by_size = sorted(sizes, key=lambda group: (sizes[group], group))
    if not chosen and len(sizes) > 1:
        chosen = {by_size[0]}
    if len(chosen) == len(sizes) and len(sizes) > 1:
        chosen.remove(by_size[-1])
    return chosen
