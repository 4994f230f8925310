"""Writes the report of a study: one HTML page that needs no network, to be opened and mailed.

Whatever comes from outside (names of files and hosts, values, messages of workers) is text: it is
escaped here, or set as text by the scripts. The page's policy lets this script and style run and
nothing else, and loads nothing but the pictures in the page.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import html
import importlib.resources
import re
from pathlib import Path
from typing import Any

import optuna

from hpo.folders import WorkFolders
from hpo.keys import ATTEMPT, STUDY_ID, TITLE
from hpo.records import about
from hpo.report.cases import Cases, read_cases
from hpo.report.content import Report
from hpo.report.distribution import distribution
from hpo.report.facts import read_facts
from hpo.report.markup import as_json, esc
from hpo.report.sections import SECTIONS
from hpo.results.models import find_model
from trainer import rundir
from trainer.figures import is_share

SCRIPTS = ("base.js", "plots.js", "table.js")  # of one scope, in this order
HEAD_BYTES = 4096  # of a report, which says whose it is
MAX_NAME = 100  # characters of a study's name, in that of a file


def write_report(study: optuna.Study, output: Path) -> Path:
    """Write `report.html` into the study's output folder, and return where it is.

    Worst and typical cases are shown if their folder is there (`hpo.run.cases`). A report of
    another study is kept as `report-STUDY.html`, any other file under a name that is free.

    Args:
        study: as Optuna has it, with finished trials or without.
        output: the output folder, with `runs/` and `best_model/`.

    Raises:
        OSError: it cannot be written.
    """
    folders = WorkFolders.of(output, study.study_name)
    facts = read_facts(study)
    best = facts.best
    cases = model = None
    if best is not None:
        attempt = int(best.user_attrs.get(ATTEMPT, 1))
        cases = read_cases(folders.cases(best.number), best.number, attempt)
        model = find_model(folders, best, study.user_attrs.get(STUDY_ID))
    report = Report(
        name=study.study_name,
        title=str(study.user_attrs.get(TITLE) or study.study_name),
        attributes=study.user_attrs,
        about=about(study.user_attrs),
        facts=facts,
        folders=folders,
        cases=cases,
        model=model,
    )
    _keep_other(folders.report, str(study.user_attrs.get(STUDY_ID)))
    folders.output.mkdir(parents=True, exist_ok=True)
    rundir.write_atomic(folders.report, render(report))
    return folders.report


def render(report: Report) -> str:
    """Return the page."""
    style = _resource("report.css")
    script = '"use strict";\n(() => {\n' + "\n".join(map(_resource, SCRIPTS)) + "})();\n"
    shown = [(name, key, text) for name, key, make in SECTIONS if (text := make(report))]
    links = "".join(f'<a href="#{key}">{esc(name)}</a>' for name, key, _ in shown if name)
    body = "".join(
        f'<section id="{key}">{f"<h2>{esc(name)}</h2>" if name else ""}{text}</section>'
        for name, key, text in shown
    )
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    written = dt.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    objective = report.objective
    names = {"score_name": objective.short_name, "is_share": is_share(objective.key)}
    data = {**report.facts.data, **names, "images": _image_data(report.cases)}
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="rml-study" content="{esc(str(report.attributes.get(STUDY_ID)))}">
<meta name="rml-study-name" content="{esc(report.name)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{esc(report.title)} – report</title>
<style>{style}</style>
<body>
<header class="top"><p class="kicker">study {esc(report.name)} · written {esc(written)}</p>
<h1>{esc(report.title)}</h1>{_banner(report)}<nav>{links}</nav></header>
<main>{body}</main>
<footer>Written by rml-optimize. <b>dice_dataset</b> pools the pixels of all images per class, then
averages the classes; <b>dice_per_image</b> is the mean over images, where empty predicted empty
counts 1. Never compare figures of different kinds.</footer>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="data">{as_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _banner(report: Report) -> str:
    if not report.is_synthetic:
        return ""
    return (
        '<p class="synthetic" role="alert"><b>SYNTHETIC DATA.</b> The images were made up by a '
        "program; no result on them means anything clinical.</p>"
    )


def _image_data(cases: Cases | None) -> dict[str, Any] | None:
    """Return how the Dice of the images is distributed, class by class."""
    if cases is None or not cases.scores.dice:
        return None
    return distribution(cases.scores)


def _resource(name: str) -> str:
    return (importlib.resources.files("hpo.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what the policy calls a script or style of exactly this text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _keep_other(path: Path, study_id: str) -> None:
    """Move the report of another study to its name, and whatever else is there to a free one."""
    if not path.exists() or (owner := _read_meta(path, "rml-study")) == study_id:
        return
    name = _read_meta(path, "rml-study-name")  # earlier releases have not written it
    kept = f"{path.stem}-{Path(name).name[:MAX_NAME]}" if name else path.stem
    place, number = path.with_name(f"{kept}{path.suffix}"), 2
    while place.exists() and not (
        name and place.is_file() and _read_meta(place, "rml-study") == owner
    ):
        place = path.with_name(f"{kept}-{number}{path.suffix}")
        number += 1
    path.replace(place)


def _read_meta(path: Path, name: str) -> str | None:
    """Return what the head of a report says; None of another file."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).decode(errors="replace")
    found = re.search(f'<meta name="{name}" content="([^"]*)">', head)
    return None if found is None else html.unescape(found[1])
