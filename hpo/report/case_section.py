"""The section of a report with pictures: the winner's worst and typical images."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from hpo.report.cases import Case
from hpo.report.content import Report
from hpo.report.markup import code, esc

NUM_CLASSES_COLOURED = 7


def case_section(report: Report) -> str:
    """Return the pictures, or how to make them."""
    cases = report.cases
    if report.facts.best is None:
        return ""
    if cases is None or not cases.shown:
        return (
            "<p>No images are here: the worker has not segmented any. "
            "This makes them, where the data and the model are:</p>"
            + code(
                f"cd {shlex.quote(str(report.folders.output))}\n"
                f"rml-study report --study-name {shlex.quote(report.name)}"
                + ("" if report.folders.generated.is_dir() else " --data DATA")
            )
        )
    part = "test" if cases.part == "test" else "validation"
    chosen = " They chose the winner." if part == "validation" or report.selected_on_test else ""
    ids = sorted({k for case in cases.shown for k in (*case.truth, *case.predicted)})
    is_one_class = len(ids) <= 1
    names = cases.scores.names_by_id
    size = "the images' own size" if cases.scores.at_own_size else "the network's size"
    text = [
        f"<p>Of the {len(cases.scores.names)} {part} images, by the mean Dice of their classes at "
        f"{size}.{chosen}</p>"
        '<div class="toggles"><label><input type="checkbox" class="toggle" value="truth" checked>'
        '<span class="line truth"></span> mask</label><label><input type="checkbox" class="toggle"'
        ' value="predicted" checked><span class="line predicted"></span> prediction</label>'
        + ("" if is_one_class else "".join(_swatch(k, names) for k in ids))
        + "</div>"
    ]
    number = 0
    for kind, heading in (("worst", "The worst"), ("typical", "Typical, around the median")):
        group = [case for case in cases.shown if case.kind == kind]
        if not group:
            continue
        figures = []
        for case in group:
            figures.append(_figure(case, number, is_one_class))
            number += 1
        text.append(f'<h3>{heading}</h3><div class="cases">{"".join(figures)}</div>')
    kind = "one" if is_one_class else "many"
    return f'<div id="pictures" class="{kind}">{"".join(text)}</div>'


def _swatch(class_id: int, names: Sequence[str]) -> str:
    """Return the name of a class beside its colour."""
    name = names[class_id] if class_id < len(names) else f"class {class_id}"
    return f'<span><i class="swatch{_class(class_id, False)}"></i>{esc(name)}</span>'


def _figure(case: Case, number: int, is_one_class: bool) -> str:
    width, height = case.size
    paths = "".join(
        f'<path class="{which}{_class(k, is_one_class)}" d="{d}"/>'
        for which, outlines in (("truth", case.truth), ("predicted", case.predicted))
        for k, d in outlines.items()
    )
    empty = "mask empty" if not case.truth else "" if case.predicted else "nothing found"
    frame = f'viewBox="0 0 {width} {height}"'
    return (
        f'<figure><div class="pair"><svg {frame} role="img" aria-label="image">'
        f'<image id="case{number}" href="{case.picture}" width="{width}" height="{height}"/></svg>'
        f'<svg {frame} role="img" aria-label="image with mask and prediction">'
        f'<use href="#case{number}"/>{paths}</svg></div>'
        f'<figcaption><b>{case.dice:.3f}</b><span title="{esc(case.name)}">{esc(case.name)}</span>'
        f"{f'<i>{empty}</i>' if empty else ''}</figcaption></figure>"
    )


def _class(class_id: int, is_one_class: bool) -> str:
    return "" if is_one_class else f" k{(class_id - 1) % NUM_CLASSES_COLOURED}"
