"""`rml-optimize --dry-run`: the plan and one sampled config; nothing is trained."""

from __future__ import annotations

import json
from dataclasses import replace

import optuna
from rich.console import Console

from hpo.dataset.survey import NOT_SURVEYED
from hpo.keys import IDENTITY, NUM_TRIALS
from hpo.launchers.slots import reserve_slots
from hpo.plan.options import Options
from hpo.plan.pruners import PROMOTION
from hpo.plan.samplers import make_sampler
from hpo.plan.spec import StudySpec
from hpo.plan.trackers import tracked_search
from hpo.results.artifacts import open_model_store
from hpo.run.launcher import check_known, pick_launcher
from hpo.run.settings import lowers_nothing, settings_rows, show_settings, tracker_rows
from hpo.run.stored_pruner import with_stored_pruner
from hpo.store.agreement import peek
from hpo.store.databaseurl import choose_url, default_url
from hpo.store.study import check_study
from hpo.trackers.registry import make_trackers
from hpo.wording import format_size

WEIGHT_BYTES = 4
STATE_WEIGHTS = 4  # of a trial: the weights, two moments of each (Adam), and the best epoch's


def _ignore(text: str) -> None:
    """Take a warning that the search itself will give."""


def _disk_text(spec: StudySpec, num_slots: int) -> str:
    """Say what checkpoints take at most; logs and pictures are small beside them."""
    weights = WEIGHT_BYTES * (spec.facts.num_trainable + spec.facts.num_non_trainable)
    each, num_kept, which = STATE_WEIGHTS * weights, num_slots, "runs"
    if spec.pruner == PROMOTION:  # see docs/pruning.md
        num_kept += -(-spec.num_trials // 3)
        which += " or is paused and may go on, about a third of all"
    text = f"{format_size(each)} for each trial that {which}"
    text += f"; {format_size(weights)} for the best model"
    if spec.is_open_ended:
        return text
    return f"about {format_size(min(num_kept, spec.num_trials) * each + weights)}: {text}"


def _time_text(spec: StudySpec) -> str:
    """Say what is known of the time before anything was trained."""
    if spec.hours is None:
        return "no limit (--hours sets one); estimated from the first trials on"
    return (
        f"{spec.hours:g} h since the study's first start; how many trials fit is estimated from "
        "the first ones' epochs, and not known before"
    )


def show_dry_run(spec: StudySpec, options: Options, console: Console) -> None:
    """Print what a search would do, with the config of a trial that might be its first.

    Data, network and their fit were checked when `spec` was planned; what the search refuses
    after that is refused here, too.
    """

    def warn(text: str) -> None:
        console.print(f"warning: {text}", markup=False)

    reservation = reserve_slots(options.worker.slots())
    reservation.close()
    launcher, why = pick_launcher(spec, options, num_slots=len(reservation.slots))
    output = options.output
    url = choose_url(output.storage, output.storage_file, _ignore) or default_url(
        spec.folders.output
    )
    if spec.survey.fingerprint != NOT_SURVEYED:  # else nothing is known of what the study reads
        known = peek(url, spec.name)
        attributes = None if known is None else known.attributes
        spec = with_stored_pruner(spec, attributes)
        check_study(spec.wanted(), url, may_move=output.move_here)
        if attributes is not None and attributes.get(IDENTITY) == spec.identity():
            total = max(spec.num_trials, int(attributes.get(NUM_TRIALS) or 0))
            spec = replace(spec, num_trials=total)
            if (note := lowers_nothing(options.search.num_trials, total)) is not None:
                warn(note)
    if output.artifacts and "://" in output.artifacts:  # a folder would be made
        open_model_store(output.artifacts)
    try:  # it may have started a worker to ask what it knows
        check_known(spec, options, launcher, warn)
        rows = [*settings_rows(spec), ("workers", reservation.text), ("launcher", why)]
        rows.append(("limits of each", launcher.limits()))
        search = tracked_search(spec, dict(settings_rows(spec)))
        rows += tracker_rows(make_trackers(spec.trackers, search))
        rows.append(("disk", _disk_text(spec, len(reservation.slots))))
        rows.append(("time", _time_text(spec)))
        show_settings(spec, rows, console)
        trial = optuna.create_study(sampler=make_sampler(spec, 0)).ask()
        config = spec.worker_config(launcher, spec.space.suggest(trial))
        console.print("\na config that the search may sample:")
        console.print(json.dumps({"neural_network": config}, indent=2), markup=False)
        if spec.survey.fingerprint == NOT_SURVEYED:
            console.print(
                "\ndry run: network and settings fit the data that the study describes; there "
                f"are none in {spec.data.root}; nothing was trained",
                markup=False,
            )
            return
        console.print("\ndry run: data, network and settings fit together; nothing was trained")
    finally:
        launcher.close()
