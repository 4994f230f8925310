"""The sections of a report, in the order in which a reader asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from hpo.keys import TESTED
from hpo.records import run_of
from hpo.report.case_section import case_section
from hpo.report.content import Report
from hpo.report.markup import code, esc, facts_list, table
from hpo.report.use import paper_section, use_section
from hpo.store.study import best_epoch, score
from hpo.wording import ABSENT, format_score, format_seconds
from trainer.wording import counted

MAX_NUMBERS = 12


def _winner(report: Report) -> str:
    facts, best, objective = report.facts, report.facts.best, report.objective
    if best is None:
        return "<p class=big-note>No trial is finished and has a score yet.</p>"
    direction = objective.direction
    test, value = facts.test, score(best, direction) or 0.0
    shown = format_score(value, objective.key)
    of_epochs = max(best.intermediate_values, default=0)
    chosen_on = report.about.get("selected_on") or report.identity.get(
        "select on", "its own images"
    )
    if "dice_dataset" in test:
        head = f"{test['dice_dataset']:.4f}"
        label = f"Dice on {counted(int(test['num_images']), 'test image')} that chose nothing"
        interval, note = test.get("interval"), "no interval: the worker left no table of images"
        if (number := test.get("num_drawn")) is not None:
            drawn = f"{number} {test.get('drawn')}"
            note = f"no interval, {drawn} are too few"
            if interval:
                note = f"95 % interval {interval[0]:.4f} – {interval[1]:.4f}, over {drawn}"
        bar = _interval_bar(float(test["dice_dataset"]), interval) if interval else ""
    else:
        head, note, bar = shown, "", ""
        label = f"{objective.short_name} on {chosen_on}"
    how = (
        f"Trial {best.number} had the {direction.superlative} {objective} of the "
        f"{facts.num_finished} trials that finished: {shown} at its best epoch, "
        f"{best_epoch(best, direction)} of {of_epochs}, on {chosen_on}."
    )
    warning = ""
    if report.selected_on_test:
        warning = (
            "Chosen and reported on the same test images, so this score is optimistic: "
            "a search with --select-on validation gives an honest one."
        )
    elif not test:
        warning = "This score chose the trial, so it is optimistic; no test images scored it."
    elif others := _tested_before(report, best.number):
        warning = f"The test images were used before, for the model of trial {others}."
    else:
        how += " The test images scored this model only."
    figures = [
        *_scores(report, value),
        ("dice_per_image", _number(test.get("dice_per_image"))),
        ("dice_dataset at the images' own size", _number(test.get("dice_dataset_own_size"))),
        ("dice_per_image at their own size", _number(test.get("dice_per_image_own_size"))),
        ("with the background", _number(test.get("dice_with_background"))),
        ("without the background", _number(test.get("dice_without_background"))),
        ("averaged", report.about.get("averaged")),
        ("compared at", report.about.get("scored_at")),
        ("published result", report.about.get("published")),
    ]
    values = [(name, _value(value)) for name, value in best.params.items()]
    return (
        '<div class="hero"><div class="score">'
        f'<p class="number">{head}</p><p class="label">{esc(label)}</p>'
        f'{bar}<p class="note">{esc(note)}</p></div>'
        f"<div><h3>Values of trial {best.number}</h3>{facts_list(values)}</div>"
        f"<div><h3>Its figures</h3>{facts_list(figures)}</div></div>"
        f'<p class="how">{esc(how)}</p>'
        + (f'<p class="warn">{esc(warning)}</p>' if warning else "")
    )


def _scores(report: Report, value: float) -> list[tuple[str, str]]:
    """Return what chose the trial, and `dice_dataset`, on the images of the page's head."""
    objective, test = report.objective, report.facts.test
    if objective.is_default:
        return [(objective.key, f"{test.get('dice_dataset', value):.4f}")]
    own = test.get("score") if test else value
    shown = "" if own is None else format_score(own, objective.key)
    return [(objective.key, shown), ("dice_dataset", _number(test.get("dice_dataset")))]


def _interval_bar(value: float, interval: list[float]) -> str:
    """Draw the interval on a line from 0 to 1."""
    low, high = (100 * float(each) for each in interval)
    return (
        '<svg class="interval" viewBox="-2 0 104 16" role="img" aria-label="interval">'
        '<path class="base" d="M0 6H100"/>'
        f'<path class="range" d="M{low:.1f} 6H{high:.1f}"/>'
        f'<circle cx="{100 * value:.1f}" cy="6" r="2.6"/>'
        '<text x="0" y="15.5">0</text><text x="100" y="15.5" text-anchor="end">1</text></svg>'
    )


def _tested_before(report: Report, number: int) -> str:
    prefix = TESTED.format("")
    found = {int(k.removeprefix(prefix)) for k in report.attributes if k.startswith(prefix)}
    return ", ".join(map(str, sorted(found - {number})))


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _distribution(report: Report) -> str:
    if report.cases is None or not report.cases.scores.dice:
        return ""
    scores = report.cases.scores
    figures = ("dice", "iou", "sensitivity", "precision")
    rows = [
        (name, *(_number(float(pooled[key])) if key in pooled else ABSENT for key in figures))
        for name, pooled in scores.per_class.items()
    ]
    return '<div id="images-plot" class="plot"></div><h3>Pixels of all images pooled</h3>' + table(
        ("class", "Dice", "IoU", "sensitivity", "precision"), rows
    )


def _curves(report: Report) -> str:
    if not report.facts.data["drawn"]:
        return ""
    name = esc(report.objective.short_name)
    return (
        f"{_sampled(report)}<div class='two'><figure><figcaption>{name} by epoch</figcaption>"
        '<div id="curves-plot" class="plot"></div></figure><figure><figcaption>'
        f"Best {name} by trial"
        '</figcaption><div id="history-plot" class="plot"></div></figure></div>'
    )


def _sampled(report: Report) -> str:
    drawn, all_trials = len(report.facts.data["drawn"]), report.facts.data["score"]
    scored = sum(value is not None for value in all_trials)
    if drawn == scored:
        return ""
    return f"<p>Drawn are {drawn} of {scored} trials, the best among them; the table has all.</p>"


def _mattered(report: Report) -> str:
    params = report.facts.data["params"]
    if not any(param["varies"] and param["trials"] for param in params):
        return ""
    few = not any(param["importance"] is not None for param in params)
    note = (
        "Too few trials to say what mattered: ten that have a parameter are needed."
        if few
        else "Share of what separates the best tenth from the rest (PED-ANOVA, of all finished "
        "trials; a parameter that only some have, among those, by their number)."
    )
    return (
        f'<p>{note}</p><div id="importance-plot" class="plot"></div>'
        "<h3>Every trial as a line</h3>"
        '<div id="parallel-plot" class="plot"></div>'
        '<h3>Each parameter by itself</h3><div id="slices-plot" class="plot slices"></div>'
    )


def _trials(report: Report) -> str:
    if not report.facts.data["number"]:
        return ""
    return (
        '<div class="tools"><input id="filter" type="search" placeholder="filter: pruned, Adam, '
        'a host …" aria-label="filter"><span id="shown"></span></div>'
        '<div id="trials-table" class="virtual" tabindex="0"></div>'
    )


def _time(report: Report) -> str:
    facts = report.facts
    busy, gpu = (sum(getattr(h, key) for h in facts.hosts) for key in ("busy_s", "gpu_s"))
    states = ", ".join(f"{number} {state}" for state, number in facts.states.items())
    text = facts_list(
        [
            ("started", f"{facts.started:%Y-%m-%d %H:%M}" if facts.started else ""),
            ("from first to last trial", format_seconds(facts.span_s)),
            ("all trials together", format_seconds(busy)),
            ("GPU hours", f"{gpu / 3600:.2f}" if gpu else "none, on CPUs"),
            ("trials by state", states),
        ],
        kind="facts wide",
    )
    rows = [
        (host.host, host.finished, host.failed, format_seconds(host.busy_s),
         f"{host.gpu_s / 3600:.2f}" if host.gpu_s else ABSENT, ", ".join(host.gpus) or host.cpu)
        for host in facts.hosts
    ]  # fmt: skip
    header = ("host", "finished", "failed", "time of its trials", "GPU hours", "device")
    return text + (table(header, rows) if rows else "")


def _failures(report: Report) -> str:
    if not report.facts.failures:
        return "<p>No trial failed, ran out of memory or diverged.</p>"
    rows = []
    for failure in report.facts.failures:
        numbers = ", ".join(map(str, failure.numbers[:MAX_NUMBERS]))
        more = len(failure.numbers) - MAX_NUMBERS
        rows.append(
            (
                failure.reason,
                len(failure.numbers),
                f"{numbers} and {more} more" if more > 0 else numbers,
            )
        )
    return f'<div class="failures">{table(("reason", "trials", "which"), rows)}</div>'


def _provenance(report: Report) -> str:
    best = report.facts.best
    run = run_of(best.user_attrs) if best is not None else {}
    version, data = run.get("code") or {}, run.get("data") or {}
    gpus = ", ".join(str(gpu.get("name") or gpu.get("uuid")) for gpu in run.get("gpus") or [])
    rows = [
        ("rml-optimize", version.get("version")),
        ("commit", version.get("commit")),
        ("worker", run.get("launcher")),
        ("image", run.get("image")),
        ("host", run.get("host")),
        ("device", gpus or (run.get("cpu") or {}).get("name")),
        ("data", report.about.get("data") or report.identity.get("data")),
        ("hash of the data", data.get("hash")),
        ("groups", data.get("group_by")),
        ("network", run.get("network")),
        ("seed of the winner", run.get("seed")),
        ("hash of its config", run.get("config_hash")),
        ("pruner", report.identity.get("pruner")),
        ("scoring rules", report.identity.get("scoring rules")),
    ]
    space = [(k.removeprefix("search "), v) for k, v in report.identity.items()
             if k.startswith("search ")]  # fmt: skip
    config = json.dumps(run.get("config") or {}, indent=2)
    return (
        facts_list(rows, kind="facts wide")
        + (f"<h3>What was searched</h3>{facts_list(space, kind='facts wide')}" if space else "")
        + (
            f"<details><summary>The winner's config</summary>{code(config)}</details>"
            if run
            else ""
        )
    )


SECTIONS: Final[tuple[tuple[str, str, Callable[[Report], str]], ...]] = (
    ("", "winner", _winner),
    ("Worst and typical cases", "cases", case_section),
    ("Dice of each image", "images", _distribution),
    ("Curves", "curves", _curves),
    ("What mattered", "mattered", _mattered),
    ("Trials", "trials", _trials),
    ("Time", "time", _time),
    ("Failures", "failures", _failures),
    ("Provenance", "provenance", _provenance),
    ("Use the model", "use", use_section),
    ("Table for a paper", "paper", paper_section),
)  # what the link says, its anchor, what makes it; an empty one is left out
