"""Prints the settings of a search as a table before it starts."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from tabulate import tabulate

from hpo.dataset.near_duplicates import shown_alike
from hpo.dataset.trivial_baseline import describe_trivial, figures_of
from hpo.plan.promotion import ETA, rungs
from hpo.plan.pruners import NO_PRUNER, PROMOTION
from hpo.plan.shared_ranges import SharedRanges
from hpo.plan.spec import StudySpec
from hpo.store.budget import is_open_ended
from hpo.trackers import Tracker
from hpo.wording import describe_values, fold

DEMO_BANNER = "DEMO: SYNTHETIC images, made up here; no result on them means anything clinical"

SETTING_CHARS, MIN_SETTING_CHARS = 76, 24


def settings_rows(spec: StudySpec) -> list[tuple[str, str]]:
    """Return what is known of a search before it starts."""
    small, large = spec.survey.sizes
    sizes = f"{small[0]}x{small[1]}"
    if small != large:
        sizes += f" to {large[0]}x{large[1]}"
    rows = [
        ("study", f"{spec.name} ({spec.title})"),
        ("data", str(spec.data.root)),
        ("images", f"{_counts_text(spec)}, {sizes}"),
        *(("files", note) for note in spec.survey.notes),
        *_alike_rows(spec),
        ("masks", spec.survey.coding.describe()),
        *describe_trivial({part: figures_of(scores) for part, scores in spec.trivial.items()}),
        ("network", _network_text(spec)),
        ("weights to start from", spec.weights.given if spec.weights else "none, random"),
        ("trials", _trials_text(spec)),
        ("trials are compared on", selection_text(spec)),
        ("by", spec.compared_by),
        ("sampler, pruner", f"{_sampler_text(spec)}, {_pruner_text(spec)}"),
        *(("tried first", describe_values(each.values)) for each in spec.first),
    ]
    if spec.published is not None:
        rows.append(("published result", spec.published))
    rows += [(f"search {name}", text) for name, text in spec.space.describe().items()]
    return rows


def tracker_rows(trackers: Mapping[str, Tracker]) -> list[tuple[str, str]]:
    """Return which trackers are told of trials, and how to look at what they write."""
    return [
        ("tracker", f"{name}: {tracker.look}" if tracker.look else name)
        for name, tracker in trackers.items()
    ]


def _trials_text(spec: StudySpec) -> str:
    if spec.is_open_ended:
        return f"as many as fit into the time, {spec.num_epochs} epochs each"
    return f"{spec.num_trials} in the study, {spec.num_epochs} epochs each"


def lowers_nothing(asked: int | None, total: int) -> str | None:
    """Say that a --num-trials below the study's total is of no effect, None where it is not."""
    if asked is None or asked >= total:
        return None
    begun = (
        "was begun without a limit of trials" if is_open_ended(total) else f"has {total} trials"
    )
    return (
        f"the study {begun}; --num-trials {asked} does not lower it (another --study-name begins "
        "one that ends there)"
    )


def _alike_rows(spec: StudySpec) -> list[tuple[str, str]]:
    """Return which training images a validation part may not separate."""
    if spec.group_by is not None or not spec.survey.alike:
        return []
    text = shown_alike(spec.survey.alike)
    is_split = spec.validation_fraction is not None
    return [("near-duplicates", text + ("; kept on one side of the split" if is_split else ""))]


def show_settings(spec: StudySpec, rows: list[tuple[str, str]], console: Console) -> None:
    """Print the grid table of settings, as the tutorial's driver does."""
    if spec.is_synthetic:
        console.print(DEMO_BANNER, markup=False)
    room = SETTING_CHARS
    if console.is_terminal:
        room = min(room, max(MIN_SETTING_CHARS, console.width - max(len(k) for k, _ in rows) - 7))
    folded = [(key, fold(text, room)) for key, text in rows]
    console.print(tabulate(folded, tablefmt="grid"), markup=False, soft_wrap=True)
    for text in spec.warnings:
        console.print(f"warning: {text}", markup=False)


def _network_text(spec: StudySpec) -> str:
    names = ", ".join(spec.networks)
    facts = spec.facts
    shape = "x".join(str(size) for size in facts.input_shape)
    return f"{names}: {facts.num_layers} layers, {facts.num_trainable:,} trainable, input {shape}"


def _counts_text(spec: StudySpec) -> str:
    survey = spec.survey
    validation = f"{survey.num_validation} validation, " if spec.data.validation else ""
    return f"{survey.num_train} training, {validation}{survey.num_test} test"


def selection_text(spec: StudySpec) -> str:
    """Say which images trials are compared on."""
    if spec.data.validation is not None:
        return f"the {spec.survey.num_validation} images of {spec.data.validation.inputs}/"
    if spec.validation_fraction is None:
        return "the test images"
    return f"{spec.validation_fraction:.0%} of the training images, split off (validation)"


def _sampler_text(spec: StudySpec) -> str:
    shared = SharedRanges.seen_by(spec).dimensions.values()
    if not shared:
        return spec.sampler
    fields = ", ".join(dict.fromkeys(each.key for each in shared))
    return f"{spec.sampler} (one position for all ranges of {fields})"


def _pruner_text(spec: StudySpec) -> str:
    if spec.pruner == NO_PRUNER:
        return "no pruning"
    if spec.pruner == PROMOTION:
        epochs = ", ".join(map(str, rungs(spec.num_epochs))) or "none"
        return f"{PROMOTION}: pauses after epochs {epochs}, the best 1/{ETA} go on at once"
    return f"{spec.pruner} pruning after epoch {spec.num_warmup_epochs}"
