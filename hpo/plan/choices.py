"""Reads the user's choices of fields: which may be chosen, and how their values are spelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpo.errors import UsageError
from hpo.plan.space import Categorical, Dimension, SearchSpace
from trainer.config import OPTIMIZERS, known_losses
from trainer.config.messages import hint
from trainer.keypath import get_path, set_path

SPELLED: dict[str, Callable[[], tuple[str, ...]]] = {
    "optimizer.type": lambda: tuple(OPTIMIZERS),
    "loss.function": known_losses,
}
# Fields that a study decides for each trial, and what the user may say instead.
OWNED = {
    "seed": "use --seed",
    "outfile": "its logs are in the trial's run folder",
    "relative_to": "paths are its own",
    "written_at": "paths are its own",
    "checkpoints.save": "the best checkpoint goes to best_model/",
    "checkpoints.best_by": "use --objective",
    "checkpoints.best_direction": "use --objective",
    "checkpoints.load": "use --transfer-learning",
    "checkpoints.pause_after": "use --pruner asha",
    "data.input_path": "use --data",
    "data.target_path": "use --data",
    "data.test_input_path": "use --data",
    "data.test_target_path": "use --data",
    "data.test_output_path": "use rmldnn --predict best_model",
}


def refuse_owned(key: str, where: str) -> None:
    """Refuse a field that the search itself decides."""
    for owned, remedy in OWNED.items():
        if key == owned or key.startswith(f"{owned}."):
            raise UsageError(f"{where} {key}: decided by the search itself; {remedy}")


def refuse_unsearchable(space: SearchSpace) -> None:
    """Refuse a field whose trials could not be compared."""
    if space.is_sampled("num_epochs"):
        raise UsageError(
            "search num_epochs: trials are compared after the same epochs; fix it with "
            "--num-epochs, the best epoch of each trial is found anyway"
        )


def spelled(dimension: Dimension) -> Dimension:
    """Write the names of optimizers and losses as the contract does, whatever their case."""
    known = SPELLED.get(dimension.key)
    if known is None or not isinstance(dimension.values, Categorical):
        return dimension
    text = ",".join(str(choice) for choice in dimension.values.choices)
    names = names_among(text, known(), f"--search {dimension.key}")
    return Dimension(dimension.key, Categorical(names), dimension.when)


def with_choice(
    space: SearchSpace, base: dict[str, Any], key: str, names: tuple[str, ...]
) -> SearchSpace:
    """Sample `key` from `names`, in the order that conditions need; one name fixes it."""
    if len(names) == 1:
        set_path(base, key, names[0])
        return SearchSpace(tuple(d for d in space.dimensions if d.key != key))
    new = Dimension(key, Categorical(names))
    others = tuple(d for d in space.dimensions if d.key != key)
    return SearchSpace((new, *others))


def settled(space: SearchSpace, base: dict[str, Any]) -> SearchSpace:
    """Leave out what no trial can sample, and conditions that all trials fulfil.

    A condition on a field that is fixed is decided once, by its value in the base config.
    """
    kept = []
    for dimension in space.dimensions:
        if dimension.when is None:
            kept.append(dimension)
            continue
        key, value = dimension.when
        if space.is_sampled(key):
            if value in space.choices(key):
                kept.append(dimension)
        elif get_path(base, key) == value:
            kept.append(Dimension(dimension.key, dimension.values))
    return SearchSpace(tuple(kept))


def check_name(name: str, known: tuple[str, ...], where: str) -> None:
    """Refuse a name that is none of the known ones."""
    if name not in known:
        raise UsageError(f"{where}: unknown name {name!r}; {hint(name, known)}")


def names_among(text: str, known: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Read a list of names as the contract writes them, whatever their case."""
    spelling = {name.lower(): name for name in known}
    names = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part.lower() not in spelling:
            raise UsageError(f"{where}: unknown name {part!r}; {hint(part, known)}")
        names.append(spelling[part.lower()])
    if not names:
        raise UsageError(f"{where}: expected names among {', '.join(known)}")
    return tuple(dict.fromkeys(names))
