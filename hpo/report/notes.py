"""Says in Markdown what came of a trial, and what a study is: the notes of Optuna's dashboard.

Texts of workers, users and scripts are in code spans, see `hpo.report.markdown`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.plan.spec import StudySpec
from hpo.records import AboutRecord, EndRecord, noted_score
from hpo.report.markdown import code, code_block, prose
from hpo.results.metrics import describe_classes
from hpo.wording import describe_values, format_score, format_seconds
from trainer import rundir
from trainer.figures import DICE_DATASET

MAX_FIELDS = 40  # of a space, in a study's note
LOG_CHARS = 80  # of a line of the log, so that a page is as wide as its window


@dataclass(frozen=True, kw_only=True)
class NotedTrial:
    """What a trial's note says.

    Attributes:
        params: the values that it had.
        end: how it ended; of one that is paused, how it would.
        run_dir: where its logs are, on `end["host"]`.
        waits_after: the epoch after which it is paused, None if it has ended.
        tested: the score of its model on the test images.
    """

    number: int
    params: Mapping[str, Any]
    end: EndRecord
    run_dir: str
    waits_after: int | None = None
    tested: str | None = None


def trial_note(trial: NotedTrial, *, selected_on: str, num_epochs: int) -> str:
    """Return what came of a trial.

    Args:
        trial: the trial.
        selected_on: the images that trials are compared on.
        num_epochs: of a trial that is trained to its end.
    """
    end = trial.end
    lines = [_result(end, selected_on, num_epochs)]
    if trial.tested is not None:
        lines.append(f"**On the test images**: {code(trial.tested)}")
    if trial.params:
        values = describe_values({_field(key): value for key, value in trial.params.items()})
        lines.append(f"Values: {code(values)}")
    if (classes := describe_classes(end.get("dice_per_class"))) is not None:
        lines.append(f"Each class: {code(classes)}")
    seconds = end.get("seconds", {}).get("total")
    took = "" if seconds is None else f" after {format_seconds(seconds)}"
    state = f"{prose(str(end.get('end')))}{took}"
    if trial.waits_after is not None:
        state = (
            f"Paused{took}, at epoch {trial.waits_after} of {num_epochs}: it goes on if it is "
            "among the best, and else is pruned"
        )
    host = end.get("host")
    lines.append(f"{state}. Its logs are in {code(trial.run_dir, 1000)}, on host {code(host)}.")
    if message := end.get("message"):
        lines.append(f"**Reason**: {code(message)}")
    if tail := end.get("log_tail"):
        lines.append(f"Its {code(rundir.WORKER_LOG)} ends:")
        lines.append(code_block(tail.splitlines(), LOG_CHARS))
    lines.append(f"All that is recorded: {code(f'rml-study show --trial {trial.number}')}")
    return "\n\n".join(lines)


def study_note(spec: StudySpec, about: AboutRecord, *, host: str, best: str | None) -> str:
    """Return what a study searches, on what data, by which score, and how to use its best model.

    Args:
        spec: the study.
        about: its data and how trials are compared.
        host: where the spec's folders are.
        best: its best trial in words, None before the first has ended.
    """
    searched, name, output = spec.space.describe(), shlex.quote(spec.name), spec.folders.output
    shown = [f"- {code(field)}: {code(values)}" for field, values in searched.items()]
    if len(shown) > MAX_FIELDS:
        shown[MAX_FIELDS:] = [f"- and {len(shown) - MAX_FIELDS} more"]
    data, model = code(about.get("data"), 1000), spec.folders.best_model
    sections = [
        f"**{code(spec.title)}**",
        "**Synthetic images, made up: nothing clinical follows from them.**"
        if about.get("is_synthetic")
        else "",
        f"**Best**: {best}" if best else "",
        "**Searched**\n\n" + "\n".join(shown),
        f"**Data**: {data}",
        f"**Compared by** {_compared_by(spec, about)}, of the best of "
        f"{spec.num_epochs} epochs, on {prose(str(about.get('selected_on')))}.",
        f"**Best model**: in {code(model, 1000)} on host {code(host)}. "
        "Masks of your images, its score on them, and the report of the study:",
        code_block(
            [
                f"cd {shlex.quote(str(output))}",
                f"rml-study predict --study-name {name} --images IMAGES --out predictions",
                f"rml-study score --study-name {name} --images IMAGES --targets MASKS",
                f"rml-study report --study-name {name}",
            ]
        ),
    ]
    return "\n\n".join(filter(None, sections))


def _result(end: EndRecord, selected_on: str, num_epochs: int) -> str:
    score = noted_score(end)
    if score is None:
        return "**No score**"
    objective = end.get("objective", DICE_DATASET)
    return (
        f"**{score_name(objective)} {format_score(score, objective)}** "
        f"at epoch {end.get('epoch')} of {num_epochs}, on {prose(selected_on)}"
    )


def _compared_by(spec: StudySpec, about: AboutRecord) -> str:
    name = score_name(spec.objective.key)
    if spec.objective.is_default:
        return f"{name}, {prose(str(about.get('averaged')))}"
    return f"{name}{spec.objective.direction.remark}"


def score_name(objective: str) -> str:
    """Return the name of a score; that of the user's own metric may be anything."""
    return objective if objective == DICE_DATASET else code(objective)


def _field(key: str) -> str:
    """Return the field of a parameter: `learning_rate[Adam]` is the learning rate of Adam."""
    return key.partition("[")[0] if key.endswith("]") else key
