"""One call of `rml-optimize`, after planning: settings, search, summary."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from rich.console import Console
from tabulate import tabulate

from hpo.dataset.near_duplicates import shown_alike
from hpo.dataset.trivial_baseline import TrivialScore, describe_trivial, no_better_than
from hpo.errors import EndingError, HpoError
from hpo.folders import TRIAL_FILE, read_json
from hpo.keys import DATABASE_ID, TEST_TASK
from hpo.launchers.slots import reserve_slots
from hpo.owner import HOST, SESSION, driver_labels
from hpo.plan.options import Options
from hpo.plan.planner import restore_inputs
from hpo.plan.spec import StudySpec
from hpo.results.artifacts import open_model_store
from hpo.results.best_model import Results
from hpo.results.metrics import describe_averages, numbers
from hpo.run.final_test import FinalTest, TestScore, tested_before
from hpo.run.launcher import check_known, pick_launcher
from hpo.run.outcome import FailurePolicy
from hpo.run.progress import describe_values, make_reporter, optuna_means
from hpo.run.search import Search, count_failed, tally_of
from hpo.run.stopping import StopRequest
from hpo.store.agreement import noticing_deletion
from hpo.store.database import DatabaseRetry, close_storage, wait_for_storage
from hpo.store.databaseurl import DATABASE_FILE, choose_url, default_url
from hpo.store.lease import LeaseManager
from hpo.store.study import best_of_optuna, finished_trials, open_study, score
from hpo.store.task_lease import TaskLease
from trainer.errors import TrainerError

MIN_TRIALS_FOR_QUARTILES = 8
DEMO_BANNER = "DEMO: SYNTHETIC images, made up here; no result on them means anything clinical"


def run_session(
    spec: StudySpec, options: Options, console: Console, stopping: StopRequest
) -> None:
    """Run the search to its end, or until `stopping` is set, and say what came out.

    The summary is printed even where the search or the final test fails.
    """
    with noticing_deletion(spec.name):
        _run_session(spec, options, console, stopping)


def _run_session(
    spec: StudySpec, options: Options, console: Console, stopping: StopRequest
) -> None:

    def warn(text: str) -> None:
        console.print(f"warning: {text}", markup=False)

    reservation = reserve_slots(options.worker.slots(), warn)
    slots = reservation.slots
    url = choose_url(options.output.storage, options.output.storage_file, warn)
    rdb = wait_for_storage(
        url or default_url(spec.folders.output), options.output.lease_s, stopping, warn
    )
    retry = DatabaseRetry(rdb.engine.url, stopping, warn)
    study = retry.call(lambda: open_study(spec.wanted(), rdb, may_move=options.output.move_here))
    labels = driver_labels(retry.call(lambda: study.user_attrs)[DATABASE_ID])
    owner = f"{labels[HOST]}/{labels[SESSION]}"
    launcher, why = pick_launcher(spec, options, labels, warn, stopping, len(slots))
    stopping.before_leaving(launcher.close)
    lease_manager = LeaseManager(
        rdb,
        study._study_id,
        lease_s=options.output.lease_s,
        owner=owner,
        identity=spec.identity(),
    )
    # Another driver may have asked for more.
    total = retry.call(lambda: lease_manager.num_trials(spec.num_trials))
    spec = replace(spec, num_trials=total)
    rows = [*settings_rows(spec), ("workers", reservation.text), ("launcher", why)]
    rows.append(("limits of each", launcher.limits()))
    show_settings(spec, rows, console)
    task_lease = TaskLease(
        rdb, study._study_id, TEST_TASK, owner=owner, lease_s=options.output.lease_s
    )
    artifacts = options.output.artifacts
    results = Results(spec, open_model_store(artifacts) if artifacts else None)
    retry.call(lambda: results.bring_back(study))
    tally = retry.call(lambda: tally_of(spec, finished_trials(study)))
    reporter = make_reporter(
        console, num_slots=len(slots), num_epochs=spec.num_epochs, tally=tally
    )
    search = Search(
        spec=spec,
        policy=FailurePolicy(
            max_retries=options.output.max_retries,
            max_failed=options.output.max_failed,
            trial_timeout_s=options.output.trial_timeout_s,
        ),
        study=study,
        launcher=launcher,
        slots=slots,
        num_procs=reservation.num_procs,
        lease_manager=lease_manager,
        retry=retry,
        results=results,
        reporter=reporter,
        tally=tally,
        num_failed_before=retry.call(lambda: count_failed(study)),
        stopping=stopping,
        restore=lambda: restore_inputs(spec, options),
    )
    failure: HpoError | TrainerError | None = None
    tested: TestScore | None = None
    try:
        try:
            check_known(spec, options, launcher, reporter.warn_once)
            search.run()
        finally:
            reporter.close()
            _complete_list(results, study, retry, warn)
        if not stopping.is_set():  # else there may be seconds left
            if missing := retry.call(lambda: finished_trials(study) and results.fetch(study)):
                console.print(f"best_model/ is not the best: {missing}", markup=False)
            retry.call(lambda: results.sweep(study))
            test = FinalTest(
                spec=spec,
                results=results,
                study=study,
                launcher=launcher,
                slot=search.usable_slot(),
                task_lease=task_lease,
                warn=warn,
                stopping=stopping,
            )
            tested = retry.call(test.run)
    except EndingError:
        pass  # it was stopped
    except (HpoError, TrainerError) as error:
        failure = error
    except OSError as error:  # the disk is full, the output folder was removed, …
        failure = HpoError(f"{error.filename}: {error.strerror}")
    finally:
        launcher.close()
        reservation.close()
        lease_manager.close()
        task_lease.close()
    is_interrupted = stopping.is_set() and failure is None
    known = replace(spec, num_trials=tally.num_trials)
    try:
        stored = retry.call(lambda: results.stored_trial(study))
        ending = Ending(tested, None if stored is None else stored.number, is_interrupted)
        retry.call(lambda: show_summary(known, study, ending, console))
    except (HpoError, KeyError):  # the database is away, or the study deleted
        if failure is None:
            raise
    close_storage(rdb)
    if failure is not None:
        raise failure


def _complete_list(
    results: Results, study: optuna.Study, retry: DatabaseRetry, warn: Callable[[str], None]
) -> None:
    """Write `list_acc.json` once more, whatever ended the search."""
    try:
        retry.call(lambda: results.write_list_acc(study))
    except OSError as error:
        warn(f"list_acc.json is not complete: {error.strerror}; see rml-study export")
    except HpoError as error:  # the search says why, if it ended for that
        warn(f"list_acc.json is not complete: {error}")


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
        *(
            (f"one answer everywhere, {part}", f"dice_dataset {describe_trivial(scores)}")
            for part, scores in spec.trivial.items()
        ),
        ("network", _network_text(spec)),
        ("weights to start from", spec.weights.given if spec.weights else "none, random"),
        ("trials", f"{spec.num_trials} in the study, {spec.num_epochs} epochs each"),
        ("trials are compared on", _selection_text(spec)),
        ("by", f"dice_dataset at {spec.scored_at}, {spec.averaged}"),
        ("sampler, pruner", f"{spec.sampler}, {_pruner_text(spec)}"),
    ]
    if spec.published is not None:
        rows.append(("published result", spec.published))
    rows += [(f"search {name}", text) for name, text in spec.space.describe().items()]
    return rows


def _alike_rows(spec: StudySpec) -> list[tuple[str, str]]:
    """Return which training images a validation part may not separate."""
    if spec.group_by is not None or not spec.survey.alike:
        return []
    text = shown_alike([list(cluster) for cluster in spec.survey.alike])
    is_split = spec.validation_fraction is not None
    return [("near-duplicates", text + ("; kept on one side of the split" if is_split else ""))]


def show_settings(spec: StudySpec, rows: list[tuple[str, str]], console: Console) -> None:
    """Print the grid table of settings, as the tutorial's driver does."""
    if spec.is_synthetic:
        console.print(DEMO_BANNER, markup=False)
    console.print(tabulate(rows, tablefmt="grid", maxcolwidths=[None, 76]), markup=False)
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


def _selection_text(spec: StudySpec) -> str:
    if spec.data.validation is not None:
        return f"the {spec.survey.num_validation} images of {spec.data.validation.inputs}/"
    if spec.validation_fraction is None:
        return "the test images"
    return f"{spec.validation_fraction:.0%} of the training images, split off (validation)"


def _pruner_text(spec: StudySpec) -> str:
    if spec.pruner == "none":
        return "no pruning"
    return f"{spec.pruner} pruning after epoch {spec.num_warmup_epochs}"


@dataclass(frozen=True)
class Ending:
    """How a session ended: the final test's score, whose model is stored, whether on request."""

    tested: TestScore | None
    model_of: int | None
    was_stopped: bool


def show_summary(spec: StudySpec, study: optuna.Study, ending: Ending, console: Console) -> None:
    """Print the best trial, where its model is, and what to type next."""
    finished = finished_trials(study)
    tally = tally_of(spec, finished)

    def say(text: str = "") -> None:
        console.print(text, markup=False)

    say()
    if spec.is_synthetic:
        say(DEMO_BANNER)
    if ending.was_stopped:
        say(f"stopped: {tally.describe()}; the same command goes on from here")
    if tally.best is None:
        say("no trial is finished and has a score yet")
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
    _explain_score(spec, value, has_model=ending.model_of == number, say=say)
    other = best_of_optuna(study)
    if other is not None and other.value is not None and other.number != number:
        say(f"  (it is not complete; Optuna's best is {optuna_means(other.number, other.value)})")
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
    say(f"all trials: {_short(spec.folders.list_acc)}")
    if ending.model_of is None:
        return
    folder, images = spec.folders.best_model, (spec.data.test or spec.data.train).inputs
    say(f"best model: {_short(folder)}")
    say()
    say("next: look at its predictions, or score it again:")
    say(
        f"  {_command('rmldnn')} --predict {_quoted(folder)} --images "
        f"{_quoted(spec.data.root / images)} --out predictions"
    )
    say(f"  {_command('rmldnn')} --config={_quoted(folder / 'config.json')}")
    output = spec.folders.output
    if ending.tested is not None and (output / DATABASE_FILE).exists():
        say("and for a figure to report, train the best ones anew, from several seeds:")
        data = "" if spec.is_synthetic else f" --data {_quoted(spec.data.root)}"
        say(f"  {_command('rml-study')} confirm --output-dir {_quoted(output)}{data}")


def _explain_score(
    spec: StudySpec, value: float, *, has_model: bool, say: Callable[[str], None]
) -> None:
    model = read_json(spec.folders.best_model / TRIAL_FILE) if has_model else {}
    if averages := describe_averages(numbers(model)):
        say(f"  averaged over the classes: {averages}; dice_dataset is {spec.averaged}")
    _compare_with_trivial(value, spec.trivial_on(spec.select_on), say)


def _compare_with_trivial(
    value: float, trivial: tuple[TrivialScore, ...], say: Callable[[str], None]
) -> None:
    if (text := no_better_than(value, trivial)) is not None:
        say(f"  warning: {text}")


def _command(name: str) -> str:
    """Return how to call a program of ours: an environment need not be activated."""
    return name if shutil.which(name) else _quoted(Path(sys.executable).parent / name)


def _quoted(path: Path) -> str:
    return shlex.quote(_short(path))


def _short(path: Path) -> str:
    """Return a path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
