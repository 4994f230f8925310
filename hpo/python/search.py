"""`optimize`: a search in Python, as `rml-optimize` makes it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from rich.console import Console

from hpo.errors import HpoError, UsageError
from hpo.objective import DEFAULT
from hpo.plan.planner import make_plan
from hpo.python.arguments import read_arguments, signature
from hpo.python.opened import OpenedStudy, open_at
from hpo.run.dryrun import show_dry_run
from hpo.run.final_test import TestScore
from hpo.run.session import run_session
from hpo.run.stopping import StopRequest
from hpo.store.databaseurl import choose_url, default_url
from hpo.store.directions import direction_of
from hpo.store.study import best_epoch, best_trial, score


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What came out of a search.

    Attributes:
        best_trial: number of the best trial, None where none has a score.
        best_params: its sampled values, by their names in the study.
        best_score: its `dice_dataset`, or what `objective` named, on the part that trials are
            compared on.
        best_epoch: where it was reached.
        test: the model's score on the test images, where they were not selected on.
        best_model: its folder, for `trainer.load_model`; None where there is no model here.
        name: of the study.
        output: the folder of the results.
    """

    best_trial: int | None
    best_params: dict[str, Any]
    best_score: float | None
    best_epoch: int | None
    test: TestScore | None
    best_model: Path | None
    name: str
    output: Path
    _study: OpenedStudy | None

    @property
    def study(self) -> OpenedStudy:
        """The study, open; see `hpo.open_study`.

        Raises:
            UsageError: it was a dry run.
        """
        if self._study is None:
            raise UsageError("a dry run makes no study")
        return self._study


def optimize(
    *,
    data: str | PathLike[str] | None = None,
    layers: str | PathLike[str] | None = None,
    num_trials: int | None = None,
    quiet: bool = False,
    **options: Any,
) -> SearchResult:
    """Search the hyperparameters of a segmentation network: `rml-optimize` in Python.

    Every option of the command is an argument, with `_` for `-`: `select_on="validation"`,
    `optimizers=["adam", "sgd"]`, `resize=(128, 128)`, `gpu=False`,
    `search={"data.batch_size": [8, 16], "optimizer.weight_decay": "1e-6..1e-2:log"}`,
    `set={"data.grayscale": True}`. Called again with the same arguments it goes on.

    In the main thread Ctrl-C, or a notebook's interrupt, ends the workers and gives their trials
    back before KeyboardInterrupt is raised; another thread leaves signals alone.

    Args:
        data: folder with {train,test}/{inputs,targets}.
        layers: Keras-JSON file, or a built-in network.
        num_trials: trials in the study, all told.
        quiet: print nothing.
        options: the command's others.

    Raises:
        HpoError, TrainerError: as the command ends with: the message is its line, `exit_code` its
            exit code.
        KeyboardInterrupt, SystemExit: it was stopped by a signal.
    """
    given = {"data": data, "layers": layers, "num_trials": num_trials, **options}
    chosen = read_arguments(given)
    # Not as HTML: a display that a notebook updates needs a package more.
    console = Console(
        highlight=False, soft_wrap=True, force_jupyter=False, quiet=quiet,
        force_terminal=False if _is_notebook() else None,
    )  # fmt: skip
    try:
        spec = make_plan(chosen)
        if chosen.output.dry_run:
            show_dry_run(spec, chosen, console)
            return _result(None, spec.name, spec.folders.output)
        stopping = StopRequest(lambda text: console.print(text, markup=False))
        with stopping.on_interrupt():
            run_session(spec, chosen, console, stopping)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise HpoError(f"{where}{error.strerror or error}") from error
    stopping.raise_signal()
    output = chosen.output
    url = choose_url(output.storage, output.storage_file, lambda text: None)
    url = url or default_url(spec.folders.output)
    return _result(open_at(url, spec.name, spec.folders.output), spec.name, spec.folders.output)


def _is_notebook() -> bool:
    """Say whether a notebook shows what is printed: it adds lines, and takes back none.

    Its kernel sets FORCE_COLOR, which rich takes for a terminal whose lines can be drawn anew.
    """
    return type(sys.stdout).__module__.startswith("ipykernel")


def _result(study: OpenedStudy | None, name: str, output: Path) -> SearchResult:
    best = best_trial(study.study) if study else None
    direction = direction_of(study.study) if study else DEFAULT.direction
    return SearchResult(
        best_trial=best.number if best else None,
        best_params=dict(best.params) if best else {},
        best_score=score(best, direction) if best else None,
        best_epoch=best_epoch(best, direction) if best else None,
        test=study.test_score if study and best else None,
        best_model=study.find_model() if study and best else None,
        name=name,
        output=output,
        _study=study,
    )


def _document(parameters: Sequence[str] = ("data", "layers", "num_trials")) -> None:
    shown = signature()
    first = [shown.parameters[name] for name in parameters]
    others = [each for name, each in shown.parameters.items() if name not in parameters]
    optimize.__signature__ = shown.replace(parameters=[*first, *others])  # type: ignore[attr-defined]


_document()
