"""`rml-study status`: where a study stands."""

from __future__ import annotations

import datetime as dt
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from hpo.command_line import as_options
from hpo.console import console
from hpo.keys import END, IDENTITY, NUM_TRIALS, PROVENANCE, TITLE
from hpo.objective import Objective, objective_in
from hpo.records import noted_score, notes_score
from hpo.run.progress import optuna_means
from hpo.store import clock
from hpo.store.budget import is_open_ended
from hpo.study.common import database_url, open_reader, reading, say_prose, show_json, show_table
from hpo.study.options import AsJson, StudyOptions
from hpo.study.queries import COUNTED, Best, Foreign, Note, Pace, Running, StudyReader
from hpo.wording import describe_left, describe_time, describe_values, format_score, format_seconds
from trainer.direction import Direction

EXIT_CODES = {"finished": 0, "running": 3, "stopped": 4}
RATE_WINDOW = 20  # trials that the rate is taken from
MAX_ROWS = 12


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Options of `rml-study status`."""

    as_json: AsJson = False
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show changes")] = False
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.5, help="Seconds between two looks")
    ] = 2.0
    study: StudyOptions


@as_options
def status(options: StatusOptions) -> None:
    """Show where a study stands, on one screen.

    Exit code: 0 all trials are finished, 3 it is running, 4 it stopped short of them (the same
    rml-optimize command goes on), 2 a mistake in the options or no database.
    """
    with reading(database_url(options.study)) as engine:
        name, reader = open_reader(engine, options.study.study_name)
        if options.watch and not options.as_json:
            entry = _watch(name, reader, options.interval_s)
        else:
            entry = read_status(name, reader)
            if options.as_json:
                show_json(entry)
            else:
                _show(entry)
    raise typer.Exit(EXIT_CODES[entry["status"]])


def read_status(name: str, reader: StudyReader) -> dict[str, Any]:
    """Return where a study stands, ready for JSON."""
    # First, or one that ends its last trial and leaves meanwhile would seem to have stopped short.
    has_driver = reader.has_driver()
    states = reader.states()
    num_finished = states.get("COMPLETE", 0) + states.get("PRUNED", 0)
    budget = reader.budget()
    total = reader.attribute(NUM_TRIALS)
    if total and is_open_ended(total):
        total = None
    running = reader.running(PROVENANCE)
    objective = objective_in(reader.attribute(IDENTITY))
    ends = reader.notes(END)
    foreign = reader.foreign()
    best = _best(ends, num_finished - len(foreign), reader.direction) or reader.best()
    rate = _rate(reader.pace(RATE_WINDOW), clock.utc_now() if running else None)
    is_alive = has_driver or any(trial.is_alive for trial in running)
    num_open = states.get("WAITING", 0) + states.get("PAUSED", 0)
    if budget is not None:
        is_done = budget.is_done or bool(total and num_finished >= total)
    else:
        is_open = bool(is_alive or running or num_open)
        is_done = num_finished >= total if total else bool(states) and not is_open
    left = max(0, total - num_finished) if total else None
    return {
        "study": name,
        "title": reader.attribute(TITLE),
        "status": "finished" if is_done else "running" if is_alive else "stopped",
        "num_trials": total,
        "num_finished": num_finished,
        "states": {state.lower(): number for state, number in sorted(states.items())},
        "budget": None
        if budget is None
        else {
            "hours": budget.hours,
            "spent_seconds": round(budget.total_s - budget.left_s, 1),
            "left_seconds": round(max(0.0, budget.left_s), 1),
        },
        "total_seconds": _span_s(reader.span()),
        "trial_seconds": round(
            sum(end.value.get("seconds", {}).get("total", 0) for end in ends), 1
        ),
        "trials_per_hour": None if rate is None else round(rate * 3600, 2),
        # of those that are paused nobody knows how many go on
        "seconds_left": round(left / rate)
        if rate and left and is_alive and not states.get("PAUSED")
        else None,
        "objective": objective.key,
        "direction": reader.direction,
        "best": {
            "trial": best.number,
            objective.key: best.score,
            "epoch": best.epoch,
            "params": reader.params(best.trial_id),
        }
        if best
        else None,
        "best_of_optuna": _best_of_optuna(
            ends, states.get("COMPLETE", 0), foreign, reader, objective
        ),
        "running": [_describe_running(trial, objective) for trial in running],
        "hosts": _hosts(ends, running),
        "failures": _failures(ends),
    }


def _best(ends: list[Note], num_finished: int, direction: Direction) -> Best | None:
    """Return the best of the finished trials by what they noted, None unless all have noted it.

    Among the values of 10,000 trials the database would look for it longer than all else takes.
    """
    counted = [end for end in ends if end.state in COUNTED]
    if len(counted) < num_finished or not all(notes_score(end.value) for end in counted):
        return None
    scored = [(noted_score(end.value), end) for end in counted]
    value, best = max(
        scored,
        key=lambda each: direction.rank(each[0], each[1].number),
        default=(None, None),
    )
    if value is None or best is None:
        return None
    return Best(best.trial_id, best.number, value, best.value["epoch"])


def _span_s(span: tuple[dt.datetime, dt.datetime] | None) -> float | None:
    return None if span is None else round((span[1] - span[0]).total_seconds(), 1)


def _best_of_optuna(
    ends: list[Note],
    num_complete: int,
    foreign: list[Foreign],
    reader: StudyReader,
    objective: Objective,
) -> dict[str, Any] | None:
    """Return the best of the complete trials, be they ours or not."""
    whole = [each for each in foreign if each.state == "COMPLETE"]
    found = [(each.value, each.number) for each in whole if each.value is not None]
    if num_ours := num_complete - len(whole):
        complete = [end for end in ends if end.state == "COMPLETE"]
        best = _best(complete, num_ours, reader.direction) or reader.best(("COMPLETE",))
        if best is not None:
            found.append((best.score, best.number))
    if not found:
        return None
    value, number = max(found, key=lambda entry: reader.direction.rank(*entry))
    is_foreign = any(each.number == number for each in foreign)
    return {"trial": number, objective.key: value, "is_foreign": is_foreign}


def _rate(pace: Pace | None, now: dt.datetime | None) -> float | None:
    """Return trials per second since the first of the last ones began; what was before is no part.

    While trials run, time passes up to now, so a study that slows down shows it.
    """
    if pace is None:
        return None
    num_finished, begin, end = pace
    if now is not None:
        end = max(end, min(now, end + (end - begin)))
    seconds = (end - begin).total_seconds()
    return num_finished / seconds if seconds > 0 else None


def _describe_running(trial: Running, objective: Objective) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "host": trial.provenance.get("host"),
        "attempt": trial.provenance.get("attempt"),
        "epoch": trial.epoch,
        objective.key: trial.best,
        "silent_s": None if trial.silent_s is None else round(max(0.0, trial.silent_s), 1),
    }


def _hosts(ends: list[Note], running: list[Running]) -> list[dict[str, Any]]:
    table: dict[str, dict[str, Any]] = defaultdict(
        lambda: {"running": 0, "finished": 0, "failed": 0, "seconds": 0.0}
    )
    for trial in running:
        table[str(trial.provenance.get("host", "?"))]["running"] += 1
    for _, _, state, end in ends:
        row = table[str(end.get("host", "?"))]
        if state == "FAIL":
            row["failed"] += 1
        elif state in COUNTED:
            row["finished"] += 1
            row["seconds"] += end.get("seconds", {}).get("total", 0.0)
    return [
        {
            "host": host,
            **{key: row[key] for key in ("running", "finished", "failed")},
            "seconds_per_trial": round(row["seconds"] / row["finished"], 1)
            if row["finished"]
            else None,
        }
        for host, row in sorted(table.items())
    ]


def _failures(ends: list[Note]) -> list[dict[str, Any]]:
    """Count what went wrong, the most frequent first; pruned for memory or divergence too."""
    reasons: dict[str, list[int]] = defaultdict(list)
    for _, number, state, end in ends:
        if state == "FAIL" or end.get("end") in ("out of memory", "diverged"):
            reason = f"{end.get('end')}: {end.get('message', '')}".rstrip(": ")
            reasons[reason.splitlines()[0]].append(number)
    return [
        {"reason": reason, "count": len(numbers), "last_trial": max(numbers)}
        for reason, numbers in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]


def _watch(name: str, reader: StudyReader, interval_s: float) -> dict[str, Any]:
    """Show the screen again and again until the study no longer runs."""
    try:
        while True:
            entry = read_status(name, reader)
            if console.is_terminal:
                console.clear()
            _show(entry)
            if entry["status"] != "running":
                return entry
            time.sleep(interval_s)
    except KeyboardInterrupt:
        return entry


def _show(entry: dict[str, Any]) -> None:
    title = f" ({entry['title']})" if entry["title"] else ""
    say_prose(f"study {entry['study']}{title}: {entry['status']}")
    total = f" of {entry['num_trials']}" if entry["num_trials"] else ""
    counted = ", ".join(f"{number} {state}" for state, number in entry["states"].items())
    say_prose(f"  trials: {entry['num_finished']}{total} finished ({counted or 'none yet'})")
    if (budget := entry["budget"]) is not None:
        spent = f"{format_seconds(budget['spent_seconds'])} since the first start"
        say_prose(f"  budget: {describe_left(budget['hours'], budget['left_seconds'])} ({spent})")
    if entry["total_seconds"] is not None:
        say_prose(f"  time: {describe_time(entry['total_seconds'], entry['trial_seconds'])}")
    if entry["trials_per_hour"] is not None:
        left = entry["seconds_left"]
        text = f", about {format_seconds(left)} left" if left else ""
        say_prose(f"  rate: {entry['trials_per_hour']:g} trials per hour{text}")
    best, key = entry["best"], entry["objective"]
    if best is not None:
        say_prose(
            f"  best: trial {best['trial']}, {key} {format_score(best[key], key)} "
            f"(epoch {best['epoch']}), {describe_values(best['params'])}"
        )
    other = entry["best_of_optuna"]
    if other is not None and (best is None or other["trial"] != best["trial"]):
        means = optuna_means(other["trial"], other[key], key, is_foreign=other["is_foreign"])
        say_prose(f"  Optuna's best: {means}")
    running = [
        {**row, key: row[key] if row[key] is None else format_score(row[key], key)}
        for row in entry["running"]
    ]
    for heading, rows in (("hosts", entry["hosts"]), ("running", running)):
        if rows:
            say_prose(f"\n{heading}")
            show_table(rows[:MAX_ROWS])
            if len(rows) > MAX_ROWS:
                say_prose(f"… and {len(rows) - MAX_ROWS} more")
    if entry["failures"]:
        say_prose("\nfailures")
        for row in entry["failures"][:MAX_ROWS]:
            say_prose(f"  {row['count']} × {row['reason']} (last: trial {row['last_trial']})")
