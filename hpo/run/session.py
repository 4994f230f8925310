"""One call of `rml-optimize`, after planning: composed, run, reported."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import optuna
from optuna.storages import RDBStorage
from rich.console import Console

from hpo.errors import EndingError, HpoError
from hpo.keys import DATABASE_ID, STUDY_ID, TEST_TASK
from hpo.launchers import Launcher
from hpo.launchers.slots import Reservation, reserve_slots
from hpo.owner import HOST, SESSION, driver_labels
from hpo.plan.options import Options
from hpo.plan.planner import restore_inputs
from hpo.plan.spec import StudySpec
from hpo.plan.trackers import tracked_search
from hpo.results.artifacts import open_model_store, pictures_in
from hpo.results.best_model import Results
from hpo.run.failures import FailurePolicy, count_failed
from hpo.run.final_test import FinalTest, TestScore
from hpo.run.launcher import check_known, pick_launcher
from hpo.run.pages import DashboardPages
from hpo.run.progress import Tally, make_reporter
from hpo.run.reporting import make_cases, note_about, report_at_end
from hpo.run.same_curves import SameCurves
from hpo.run.search import Search, tally_of
from hpo.run.settings import lowers_nothing, settings_rows, show_settings, tracker_rows
from hpo.run.stopping import StopRequest
from hpo.run.stored_pruner import read_attributes, with_stored_pruner
from hpo.run.summary import Ending, show_summary
from hpo.run.tracking import Tracking, how_it_ended
from hpo.store.agreement import noticing_deletion
from hpo.store.database import DatabaseRetry, close_storage, wait_for_storage
from hpo.store.databaseurl import choose_url, default_url
from hpo.store.first_trials import put_first
from hpo.store.lease import LeaseManager
from hpo.store.study import best_trial, finished_trials, open_study
from hpo.store.task_lease import TaskLease
from hpo.trackers import SearchEnd
from hpo.trackers.registry import make_trackers
from hpo.wording import describe_left
from trainer.errors import TrainerError
from trainer.wording import counted


def run_session(
    spec: StudySpec, options: Options, console: Console, stopping: StopRequest
) -> None:
    """Run the search to its end, or until `stopping` is set, and say what came out.

    The summary is printed even where the search or the final test fails.
    """
    with noticing_deletion(spec.name):
        with contextlib.ExitStack() as undo:
            session = _compose(spec, options, console, stopping, undo)
            undo.pop_all()
        try:
            tested, failure = _run(session)
        except BaseException:
            session.tracking.close(SearchEnd(state="failed"), is_stopped=True)
            raise
        is_stopped = stopping.is_set() and failure is None
        best = None
        if spec.trackers and not is_stopped and failure is None:
            best = session.retry.call(best_trial, session.study)
        end = how_it_ended(best, tested, failure, spec.objective.direction, is_stopped=is_stopped)
        session.tracking.close(end, is_stopped=stopping.is_set())
        _report(session, tested, failure)


@dataclass(frozen=True, kw_only=True)
class _Session:
    """All that one call has open; `spec` has the total that the drivers have agreed on."""

    spec: StudySpec
    options: Options
    console: Console
    stopping: StopRequest
    reservation: Reservation
    rdb: RDBStorage
    retry: DatabaseRetry
    study: optuna.Study
    launcher: Launcher
    lease_manager: LeaseManager
    task_lease: TaskLease
    results: Results
    pages: DashboardPages
    tracking: Tracking
    search: Search
    tally: Tally

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", markup=False)


def _compose(
    spec: StudySpec,
    options: Options,
    console: Console,
    stopping: StopRequest,
    undo: contextlib.ExitStack,
) -> _Session:
    """Reserve slots, open the study, choose the launcher, and show the settings.

    What others see of it is taken back by `undo`.
    """

    def warn(text: str) -> None:
        console.print(f"warning: {text}", markup=False)

    output = options.output
    reservation = reserve_slots(options.worker.slots(), warn)
    url = choose_url(output.storage, output.storage_file, warn)
    url = url or default_url(spec.folders.output)
    rdb = wait_for_storage(url, output.lease_s, stopping, warn)
    retry = DatabaseRetry(rdb.engine.url, stopping, warn)
    spec = with_stored_pruner(spec, retry.call(read_attributes, rdb, spec.name))
    study = retry.call(open_study, spec.wanted(), rdb, may_move=output.move_here)
    retry.call(note_about, spec, study)
    attributes = retry.call(lambda: study.user_attrs)
    tracked = tracked_search(spec, dict(settings_rows(spec)), str(attributes.get(STUDY_ID)))
    trackers = make_trackers(spec.trackers, tracked)
    labels = driver_labels(attributes[DATABASE_ID])
    owner = f"{labels[HOST]}/{labels[SESSION]}"
    lease_manager = LeaseManager(
        rdb,
        study._study_id,
        lease_s=output.lease_s,
        owner=owner,
        identity=spec.identity(),
        retry=retry,
    )
    undo.callback(lease_manager.close)
    retry.call(lease_manager.presence.enter)
    undo.callback(lease_manager.presence.leave)
    launcher, why = pick_launcher(spec, options, labels, warn, stopping, len(reservation.slots))
    stopping.before_leaving(launcher.close)
    retry.call(lease_manager.budget.ask, spec.hours)
    # Another driver may have asked for more.
    total = retry.call(lease_manager.num_trials, spec.num_trials)
    spec = replace(spec, num_trials=total)
    if (note := lowers_nothing(options.search.num_trials, total)) is not None:
        warn(note)
    if num_left := retry.call(put_first, rdb, study._study_id, spec.first, total):
        warn(
            f"{counted(num_left, 'configuration')} to try first left out: the study has its "
            f"{total} trials; a larger --num-trials has room"
        )
    rows = [*settings_rows(spec), ("workers", reservation.text), ("launcher", why)]
    rows.append(("limits of each", launcher.limits()))
    if (budget := lease_manager.budget.now) is not None:
        rows.append(("time", describe_left(budget.hours, budget.left_s)))
    rows += tracker_rows(trackers)
    show_settings(spec, rows, console)
    task_lease = TaskLease(rdb, study._study_id, TEST_TASK, owner=owner, lease_s=output.lease_s)
    model_store = open_model_store(output.artifacts) if output.artifacts else None
    results = Results(spec, model_store, stopping=stopping, warn=warn)
    retry.call(results.bring_back, study)
    trials = retry.call(study.get_trials, deepcopy=False)
    tally = tally_of(spec, trials, lease_manager.budget)
    reporter = make_reporter(
        console,
        num_slots=len(reservation.slots),
        num_epochs=spec.num_epochs,
        tally=tally,
        score_name=spec.objective.short_name,
    )
    pages = DashboardPages(
        spec,
        rdb,
        study._study_id,
        open_store=lambda: open_model_store(pictures_in(output.artifacts, spec.folders)),
        warn=reporter.warn_once,
    )
    retry.call(pages.study_told, study)
    tracking = Tracking(
        trackers,
        objective=spec.objective,
        num_epochs=spec.num_epochs,
        warn=reporter.warn_once,
    )
    search = Search(
        spec=spec,
        policy=FailurePolicy(
            max_retries=output.max_retries,
            max_failed=output.max_failed,
            trial_timeout_s=output.trial_timeout_s,
        ),
        study=study,
        launcher=launcher,
        slots=reservation.slots,
        num_procs=reservation.num_procs,
        lease_manager=lease_manager,
        retry=retry,
        results=results,
        pages=pages,
        tracking=tracking,
        reporter=reporter,
        tally=tally,
        num_failed_before=retry.call(count_failed, study),
        stopping=stopping,
        same_curves=SameCurves.of(trials),
        restore=lambda: restore_inputs(spec, options),
    )
    return _Session(
        spec=spec,
        options=options,
        console=console,
        stopping=stopping,
        reservation=reservation,
        rdb=rdb,
        retry=retry,
        study=study,
        launcher=launcher,
        lease_manager=lease_manager,
        task_lease=task_lease,
        results=results,
        pages=pages,
        tracking=tracking,
        search=search,
        tally=tally,
    )


def _run(session: _Session) -> tuple[TestScore | None, HpoError | TrainerError | None]:
    """Search, then test the winner; return its score and what failed, and leave no worker."""
    search, retry, results = session.search, session.retry, session.results
    try:
        try:
            check_known(session.spec, session.options, session.launcher, search.reporter.warn_once)
            search.run()
        finally:
            search.reporter.close()
            _complete_list(session)
        if session.stopping.is_set():  # there may be seconds left
            return None, None
        retry.call(session.pages.search_ended, session.study)
        if retry.call(finished_trials, session.study) and (
            missing := retry.call(results.fetch, session.study)
        ):
            session.console.print(f"best_model/ is not the best: {missing}", markup=False)
        retry.call(results.sweep, session.study)
        session.tracking.settle(session.study, retry)
        test = FinalTest(
            spec=session.spec,
            results=results,
            study=session.study,
            launcher=session.launcher,
            slot=search.usable_slot(),
            task_lease=session.task_lease,
            warn=session.warn,
            stopping=session.stopping,
        )
        tested = retry.call(test.run)
        retry.call(
            make_cases,
            session.spec,
            session.study,
            results,
            session.launcher,
            test.slot,
            stopping=session.stopping,
            warn=session.warn,
        )
        retry.call(_show_best, session, tested)
        return tested, None
    except EndingError:  # it was stopped
        return None, None
    except (HpoError, TrainerError) as error:
        return None, error
    except OSError as error:  # the disk is full, the output folder was removed, …
        return None, HpoError(f"{error.filename}: {error.strerror}")
    finally:
        session.launcher.close()
        session.reservation.close()
        session.lease_manager.presence.leave()
        session.lease_manager.close()
        session.task_lease.close()
        session.pages.close(is_stopped=session.stopping.is_set())


def _show_best(session: _Session, tested: TestScore | None) -> None:
    """Have the dashboard show the best trial's score on the test images, and its cases."""
    text = None if tested is None else str(tested)
    session.pages.study_told(session.study, text)
    if (best := best_trial(session.study)) is not None:
        session.pages.best_told(best, text, session.spec.num_expected(best.number + 1))


def _complete_list(session: _Session) -> None:
    """Write `list_acc.json` once more, whatever ended the search."""
    try:
        session.retry.call(session.results.write_list_acc, session.study)
    except OSError as error:
        session.warn(f"list_acc.json is not complete: {error.strerror}; see rml-study export")
    except HpoError as error:  # the search says why, if it ended for that
        session.warn(f"list_acc.json is not complete: {error}")


def _report(
    session: _Session, tested: TestScore | None, failure: HpoError | TrainerError | None
) -> None:
    """Print the summary, close the database, and raise what failed."""
    retry, study = session.retry, session.study
    was_stopped = session.stopping.is_set() and failure is None
    known = replace(session.spec, num_trials=session.tally.num_trials)
    try:
        stored = retry.call(session.results.stored_trial, study)
        report = None
        if not session.stopping.is_set():  # else there may be seconds left
            report = report_at_end(study, session.spec.folders.output, session.warn)
        model_of = None if stored is None else stored.number
        budget = session.lease_manager.budget.now
        ending = Ending(tested, model_of, was_stopped, report, budget)
        retry.call(show_summary, known, study, ending, session.console)
    except (HpoError, KeyError):  # the database is away, or the study deleted
        if failure is None:
            raise
    close_storage(session.rdb)
    if failure is not None:
        raise failure
