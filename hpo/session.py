"""One call of `rml-optimize`, after planning: settings, search, summary."""

from __future__ import annotations

import os
import shlex
import socket
import threading
import uuid
from pathlib import Path

import optuna
from rich.console import Console
from tabulate import tabulate

from hpo.errors import UsageError
from hpo.finish import TestScore, score_winner
from hpo.launchers import Launcher, choose_launcher
from hpo.lease import LeaseOffice
from hpo.options import Options
from hpo.progress import Tally, describe_values, make_reporter
from hpo.results import TRIAL_FILE
from hpo.search import Search, current_tally
from hpo.slots import make_slots
from hpo.spec import StudySpec
from hpo.storage import default_url, finished_trials, open_storage, open_study, score

MIN_TRIALS_FOR_QUARTILES = 8
DEMO_BANNER = "DEMO: SYNTHETIC images, made up here; no result on them means anything clinical"


def pick_launcher(spec: StudySpec, options: Options, *, uses_gpu: bool) -> tuple[Launcher, str]:
    """Build the launcher that the options ask for, and say which it is and why."""
    worker = shlex.split(options.worker.worker) if options.worker.worker else None
    if worker == []:
        raise UsageError("--worker: the command is empty")
    labels = {
        "rml.study": spec.name,
        "rml.host": socket.gethostname(),
        "rml.uid": str(os.getuid()),
        "rml.session": uuid.uuid4().hex,
    }
    return choose_launcher(
        options.worker.launcher,
        worker=tuple(worker) if worker else None,
        image=options.worker.docker_image,
        mounts=spec.mounts,
        labels=labels,
    )


def run_session(
    spec: StudySpec, options: Options, console: Console, stopping: threading.Event
) -> None:
    """Run the search to its end, or until `stopping` is set, and say what came out."""
    url = options.output.storage or default_url(spec.folders.output)
    rdb = open_storage(url)
    study = open_study(spec, rdb)
    slots, slots_text = make_slots(gpu=options.worker.gpu, jobs=options.worker.jobs)
    launcher, why = pick_launcher(spec, options, uses_gpu=bool(slots[0].gpu_uuids))
    rows = [*settings_rows(spec), ("workers", slots_text), ("launcher", why)]
    show_settings(spec, rows, console)
    office = LeaseOffice(rdb, study._study_id, lease_s=options.output.lease_s)
    tally = current_tally(spec, study)
    reporter = make_reporter(
        console, num_slots=len(slots), num_epochs=spec.num_epochs, tally=tally
    )
    search = Search(
        spec=spec,
        study=study,
        launcher=launcher,
        slots=slots,
        num_procs=options.worker.num_procs,
        office=office,
        reporter=reporter,
        tally=tally,
        stopping=stopping,
    )
    try:
        try:
            search.run()
        finally:
            reporter.close()
        tested = None if stopping.is_set() else score_winner(spec, launcher, slots[0])
    finally:
        launcher.close()
        office.close()
    show_summary(spec, study, tested, console, was_stopped=stopping.is_set())


def settings_rows(spec: StudySpec) -> list[tuple[str, str]]:
    """Return what is known of a search before it starts."""
    small, large = spec.survey.sizes
    sizes = f"{small[0]}x{small[1]}"
    if small != large:
        sizes += f" to {large[0]}x{large[1]}"
    rows = [
        ("study", f"{spec.name} ({spec.title})"),
        ("data", str(spec.data.root)),
        ("images", f"{spec.survey.num_train} training, {spec.survey.num_test} test, {sizes}"),
        ("masks", spec.survey.coding.describe()),
        ("network", _network_text(spec)),
        ("weights to start from", spec.weights or "none, random"),
        ("trials", f"{spec.num_trials} in the study, {spec.num_epochs} epochs each"),
        ("trials are compared on", _selection_text(spec)),
        ("sampler, pruner", f"{spec.sampler}, {_pruner_text(spec)}"),
    ]
    rows += [(f"search {name}", text) for name, text in spec.space.describe().items()]
    return rows


def show_settings(spec: StudySpec, rows: list[tuple[str, str]], console: Console) -> None:
    """Print the grid table of settings, as the tutorial's driver does."""
    if spec.is_synthetic:
        console.print(DEMO_BANNER, markup=False)
    console.print(tabulate(rows, tablefmt="grid", maxcolwidths=[None, 76]), markup=False)


def _network_text(spec: StudySpec) -> str:
    names = ", ".join(spec.networks)
    facts = spec.facts
    shape = "x".join(str(size) for size in facts.input_shape)
    return f"{names}: {facts.num_layers} layers, {facts.num_trainable:,} trainable, input {shape}"


def _selection_text(spec: StudySpec) -> str:
    if spec.validation_fraction is None:
        return "the test images"
    return f"{spec.validation_fraction:.0%} of the training images, split off (validation)"


def _pruner_text(spec: StudySpec) -> str:
    if spec.pruner == "none":
        return "no pruning"
    return f"{spec.pruner} pruning after epoch {spec.num_warmup_epochs}"


def show_summary(
    spec: StudySpec,
    study: optuna.Study,
    tested: TestScore | None,
    console: Console,
    *,
    was_stopped: bool,
) -> None:
    """Print the best trial, where its model is, and what to type next."""
    finished = finished_trials(study)
    tally: Tally = current_tally(spec, study)

    def say(text: str = "") -> None:
        console.print(text, markup=False)

    say()
    if spec.is_synthetic:
        say(DEMO_BANNER)
    if was_stopped:
        say(f"stopped: {tally.describe()}; the same command goes on from here")
    if tally.best is None:
        say("no trial has a score yet")
        return
    value, number = tally.best
    best = next(trial for trial in finished if trial.number == number)
    pruned = sum(trial.state.name == "PRUNED" for trial in finished)
    scores = sorted(s for trial in finished if (s := score(trial)) is not None)
    line = f"best trial: number {number}, of {len(finished)} trials, {pruned} of them pruned"
    if len(scores) >= MIN_TRIALS_FOR_QUARTILES:
        quartile = len(scores) // 4
        line += f"; half of all reach {scores[quartile]:.4f} to {scores[-1 - quartile]:.4f}"
    say(line)
    say(f"  parameters: {describe_values(best.params)}")
    say(f"  dice_dataset {value:.4f} on {_selection_text(spec)}")
    if tested is not None:
        text = f"  dice_dataset {tested.dice_dataset:.4f}"
        if tested.interval is not None:
            text += f" (95 % interval {tested.interval[0]:.4f} .. {tested.interval[1]:.4f})"
        if tested.dice_per_image is not None:
            text += f", dice_per_image {tested.dice_per_image:.4f}"
        say(f"{text} on the {tested.num_images} test images, used for this only")
    elif spec.select_on == "test":
        say(
            "  warning: chosen and reported on the same test images, so this score is "
            "optimistic; --select-on validation gives an honest one"
        )
    folder = spec.folders.best_model
    if (folder / TRIAL_FILE).exists():
        say(f"best model: {_short(folder)}")
        say(f"all trials: {_short(spec.folders.list_acc)}")
        say()
        images = spec.data.test or spec.data.train
        say("next: look at its predictions, or score it again:")
        say(
            f"  rmldnn --predict {shlex.quote(_short(folder))} --images "
            f"{shlex.quote(_short(spec.data.root / images.inputs))} --out predictions"
        )
        say(f"  rmldnn --config={shlex.quote(_short(folder / 'config.json'))}")


def _short(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
