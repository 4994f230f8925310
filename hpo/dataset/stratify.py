"""Chooses the groups of a validation part so that both sides show every class where they can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set


def choose_validation(
    names: Sequence[str], num_chosen: int, classes_of: Mapping[str, Set[int]]
) -> set[str]:
    """Return the groups of the validation part.

    The first ones of the shuffled names, unless a class that several groups have would then be on
    one side only: a group that has it changes places with one that can be spared.

    Args:
        names: all groups, shuffled.
        num_chosen: how many go to the validation part, fewer than all.
        classes_of: the classes that each group's masks show; what is not in it shows none.
    """
    chosen = set(names[:num_chosen])
    rest = set(names[num_chosen:])
    counts: dict[int, int] = {}
    for name in names:
        for class_id in classes_of.get(name, ()):
            counts[class_id] = counts.get(class_id, 0) + 1
    settled: set[int] = set()
    for class_id in sorted((c for c in counts if counts[c] > 1), key=lambda c: (counts[c], c)):
        settled.add(class_id)
        for side, other in ((chosen, rest), (rest, chosen)):
            if not _shows(side, class_id, classes_of):
                _exchange(names, side, other, class_id, settled, classes_of)
    return chosen


def _shows(side: Set[str], class_id: int, classes_of: Mapping[str, Set[int]]) -> bool:
    return any(class_id in classes_of.get(name, ()) for name in side)


def _exchange(  # all that the two sides are
    names: Sequence[str],
    side: set[str],
    other: set[str],
    class_id: int,
    settled: Set[int],
    classes_of: Mapping[str, Set[int]],
) -> None:
    """Bring a group that shows a class to `side`, for one whose classes `side` can spare."""
    for coming in (name for name in names if name in other and class_id in classes_of[name]):
        for going in (name for name in names if name in side):
            new_side, new_other = (side - {going}) | {coming}, (other - {coming}) | {going}
            # What is on both sides of those that were settled before stays there.
            if all(
                _shows(part, known, classes_of) or not _shows(before, known, classes_of)
                for known in settled
                for part, before in ((new_side, side), (new_other, other))
            ):
                side.remove(going)
                side.add(coming)
                other.remove(coming)
                other.add(going)
                return
