"""What a reader types next: how to use the model, and the table for a paper."""

from __future__ import annotations

import shlex

from tabulate import tabulate

import trainer
from hpo.report.content import Report
from hpo.report.markup import code, esc
from hpo.store.study import score
from hpo.wording import ABSENT, describe_values, format_score, latex
from trainer.figures import DICE_DATASET, DICE_PER_IMAGE

LOADER = "load_model"  # of `trainer`
CONFIRMED = ("confirm.md", "confirm.tex")


def use_section(report: Report) -> str:
    """Return commands and Python for the winner's model."""
    best = report.facts.best
    if best is None:
        return ""
    there = f"cd {shlex.quote(str(report.folders.output))}"
    name = shlex.quote(report.name)
    if report.model is None:
        return (
            f"<p>The model of trial {best.number} is not here. This brings it, where it is or "
            "with the study's <code>--artifacts</code>:</p>"
            + code(f"{there}\nrml-study export --study-name {name} --to NEW")
        )
    model = shlex.quote(report.model.name)
    text = (
        "<h3>In a terminal</h3>"
        + code(
            f"{there}\n"
            f"rmldnn --predict {model} --images IMAGES --out predictions\n"
            f"rml-study score --images IMAGES --targets MASKS --study-name {name}"
        )
        + "<h3>As ONNX</h3>"
        + code(f"rmldnn --config={model}/config.json --export best.onnx")
    )
    if LOADER in getattr(trainer, "__all__", ()):
        text += "<h3>In Python</h3>" + code(
            f"from trainer import {LOADER}\n\n"
            f"model = {LOADER}({str(report.model)!r})\n"
            'found = model.predict("image.png")\n'
            "found.mask, found.probability"
        )
    later = ""
    if report.model == report.folders.best_model:
        kept = f"{report.folders.best_model}-{report.name}"  # see `keep_foreign`
        later = f", and in <code>{esc(kept)}</code> once another study was searched here"
    return f"<p>The model is in <code>{esc(report.model)}</code>{later}.</p>{text}"


def paper_section(report: Report) -> str:
    """Return the result as a table in Markdown and LaTeX, confirmed by new trainings if it was."""
    if report.facts.best is None:
        return ""
    confirmed = [report.folders.output / name for name in CONFIRMED]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in confirmed
             if path.is_file()]  # fmt: skip
    if len(texts) == 2 and texts[0].find(f"Study {report.name}:") >= 0:
        note = "Trained anew from several seeds, by rml-study confirm."
    else:
        texts = list(paper_table(report))
        note = (
            "Of one training; rml-study confirm --top 3 --seeds 5 trains the best ones anew and "
            "gives mean ± deviation."
        )
    markdown, tex = texts
    return f"<p>{note}</p><h3>Markdown</h3>{code(markdown)}<h3>LaTeX</h3>{code(tex)}"


def paper_table(report: Report) -> tuple[str, str]:
    """Return the winner's row in Markdown and in LaTeX."""
    best, test = report.facts.best, report.facts.test
    assert best is not None
    part = "test" if report.selected_on_test else "validation"
    row = {"trial": str(best.number), "values": describe_values(best.params)}
    key = report.objective.key
    value = score(best, report.objective.direction) or 0.0
    row[f"{key}, {part}"] = format_score(value, key)
    if "dice_dataset" in test:
        if test.get("score") is not None and key not in (DICE_DATASET, DICE_PER_IMAGE):
            row[f"{key}, test"] = format_score(test["score"], key)
        row["dice_dataset, test"] = f"{test['dice_dataset']:.4f}"
        interval = test.get("interval")
        row["95 % interval"] = "{:.4f} .. {:.4f}".format(*interval) if interval else ABSENT
        per_image = test.get("dice_per_image")
        row["dice_per_image, test"] = ABSENT if per_image is None else f"{per_image:.4f}"
        row["test images"] = str(test.get("num_images"))
    escaped = {latex(key): latex(value) for key, value in row.items()}
    return (
        tabulate([row], headers="keys", tablefmt="github", disable_numparse=True),
        tabulate([escaped], headers="keys", tablefmt="latex_raw", disable_numparse=True),
    )
