"""Prints the result of a search: best trial, where its model is, what to type next."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from hpo.console import tell
from hpo.dataset.trivial_baseline import TrivialScore, no_better_than
from hpo.folders import TRIAL_FILE, read_json
from hpo.plan.spec import StudySpec
from hpo.results.metrics import describe_averages, describe_classes, numbers
from hpo.run.final_test import TestScore, tested_before
from hpo.run.progress import optuna_means
from hpo.run.search import tally_of
from hpo.run.settings import DEMO_BANNER, selection_text
from hpo.store.budget import HOUR_S, Budget
from hpo.store.databaseurl import DATABASE_FILE
from hpo.store.durations import busy_s, span_s
from hpo.store.study import best_of, best_of_optuna, finished_trials, is_foreign, score
from hpo.wording import describe_time, describe_values, format_score, format_seconds
from trainer.wording import counted

MIN_TRIALS_FOR_QUARTILES = 8


@dataclass(frozen=True)
class Ending:
    """How a session ended: the final test's score, whose model is stored, whether on request.

    `report` is where the page is, None where none was written; `budget` the study's time, if that
    is limited.
    """

    tested: TestScore | None
    model_of: int | None
    was_stopped: bool
    report: Path | None
    budget: Budget | None = None


def show_summary(spec: StudySpec, study: optuna.Study, ending: Ending, console: Console) -> None:
    """Print the best trial, where its model is, and what to type next."""
    finished = finished_trials(study)

    def say(text: str = "") -> None:
        tell(console, text)

    shown = partial(format_score, name=spec.objective.key)
    say()
    if spec.is_synthetic:
        say(DEMO_BANNER)
    if ending.was_stopped:
        tally = tally_of(spec, study.get_trials(deepcopy=False))
        say(f"stopped: {tally.describe()}; the same command goes on from here")
    elif ending.budget is not None:
        _say_time(ending.budget, finished, spec.num_trials, say)
    direction = spec.objective.direction
    best = best_of(finished, direction)
    value = None if best is None else score(best, direction)
    if best is None or value is None:
        say("no trial is finished and has a score yet")
        return
    number = best.number
    pruned = sum(trial.state.name == "PRUNED" for trial in finished)
    scores = sorted(s for trial in finished if (s := score(trial, direction)) is not None)
    among = counted(len(finished), "trial")
    line = f"best trial: number {number}, of {among}, {pruned} of them pruned"
    if len(scores) >= MIN_TRIALS_FOR_QUARTILES:
        quartile = len(scores) // 4
        line += f"; half of all reach {shown(scores[quartile])} to {shown(scores[-1 - quartile])}"
    say(line)
    say(f"  parameters: {describe_values(best.params)}")
    say(f"  {spec.objective} {shown(value)} on {selection_text(spec)}{direction.remark}")
    _explain_score(spec, value, has_model=ending.model_of == number, say=say)
    other = best_of_optuna(study)
    if other is not None and other.value is not None and other.number != number:
        text = optuna_means(
            other.number, other.value, spec.objective.key, is_foreign=is_foreign(other)
        )
        why = "" if is_foreign(other) else "it is not complete; "
        say(f"  ({why}Optuna's best is {text})")
    if ending.model_of is not None and ending.model_of != number:
        say(f"  but best_model/ is of trial {ending.model_of}, see above")
    if ending.tested is not None:
        others = ", ".join(map(str, tested_before(study, ending.tested.trial)))
        use = f"used before, for the model of trial {others}" if others else "used for this only"
        say(f"  {ending.tested}, {use}")
        _compare_with_trivial(ending.tested.dice_dataset, spec.trivial_on("test"), say)
    elif spec.select_on == "test":
        say(
            "  warning: chosen and reported on the same test images, so this score is "
            "optimistic; --select-on validation gives an honest one"
        )
    trials = study.get_trials(deepcopy=False)
    say(f"time: {describe_time(span_s(trials), busy_s(trials))}")
    say(f"all trials: {_short(spec.folders.list_acc)}")
    if ending.model_of is None:
        _name_report(ending, say)
        return
    _say_next(spec, study, ending, console)


def _say_time(
    budget: Budget, finished: Sequence[FrozenTrial], total: int, say: Callable[[str], None]
) -> None:
    """Say how the study's time was used, and what going on needs."""
    began = f"the study's first start was {format_seconds(budget.spent_s)} ago"
    if budget.is_done and len(finished) < total:
        more = math.ceil(budget.spent_s / HOUR_S + budget.hours)
        say(
            f"nothing more fits into the {budget.hours:g} h of --hours ({began}); "
            f"going on needs more, such as --hours {more}"
        )
    else:
        say(f"{began}, it may take {budget.hours:g} h")
    if finished and all(trial.state != TrialState.COMPLETE for trial in finished):
        say("no trial could be trained to its end in that time; this is the best so far")


def _say_next(spec: StudySpec, study: optuna.Study, ending: Ending, console: Console) -> None:
    """Say where the model is and what to do with it."""

    def say(text: str) -> None:
        tell(console, text)

    def command(text: str) -> None:  # in one piece, to be copied
        console.print(f"  {text}", markup=False, soft_wrap=True)

    folder, images = spec.folders.best_model, (spec.data.test or spec.data.train).inputs
    say(f"best model: {_short(folder)}")
    part = "test images" if spec.select_on == "test" else "validation part"
    first = "" if _name_report(ending, say) else "next: "
    say(
        f"{first}look at its predictions, or score it again on the {part}, as the search did "
        "(it prints, and writes no file):"
    )
    command(
        f"{_command('rmldnn')} --predict {_quoted(folder)} --images "
        f"{_quoted(spec.data.root / images)} --out predictions"
    )
    command(f"{_command('rmldnn')} --config={_quoted(folder / 'config.json')} --set outfile=null")
    output = spec.folders.output
    if ending.tested is not None and (output / DATABASE_FILE).exists():
        say("and for a figure to report, train the best ones anew, from several seeds:")
        data = "" if spec.is_synthetic else f" --data {_quoted(spec.data.root)}"
        command(
            f"{_command('rml-study')} confirm --output-dir {_quoted(output)}"
            f"{_study_name(study)}{data}"
        )


def _name_report(ending: Ending, say: Callable[[str], None]) -> bool:
    """Name the page, if there is one, as the first thing to do; say whether there is."""
    say("")
    if ending.report is None:
        return False
    say(f"next: open the report, a page that needs no network: {_short(ending.report)}")
    return True


def _explain_score(
    spec: StudySpec, value: float, *, has_model: bool, say: Callable[[str], None]
) -> None:
    model = read_json(spec.folders.best_model / TRIAL_FILE) if has_model else {}
    if averages := describe_averages(numbers(model)):
        say(f"  averaged over the classes: {averages}; dice_dataset is {spec.averaged}")
    if classes := describe_classes(model.get("dice_per_class")):
        say(f"  dice_dataset of each class: {classes}")
    if spec.objective.is_default:
        _compare_with_trivial(value, spec.trivial_on(spec.select_on), say)


def _compare_with_trivial(
    value: float, trivial: tuple[TrivialScore, ...], say: Callable[[str], None]
) -> None:
    if (text := no_better_than(value, trivial)) is not None:
        say(f"  warning: {text}")


def _study_name(study: optuna.Study) -> str:
    """Return the option that tells a study from the others of its database, if there are any."""
    names = optuna.get_all_study_names(study._storage)
    return f" --study-name {shlex.quote(study.study_name)}" if len(names) > 1 else ""


def _command(name: str) -> str:
    """Return how to call a program of ours: an environment need not be activated."""
    return name if shutil.which(name) else _quoted(Path(sys.executable).parent / name)


def _quoted(path: Path) -> str:
    return shlex.quote(_short(path))


def _short(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
