"""`rml-study export`: the two results of a study, from the database and the artifact store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.command_line import as_options
from hpo.errors import HpoError, UsageError
from hpo.keys import STUDY_ID
from hpo.study.common import opened_study, say
from hpo.study.options import Artifacts, StudyOptions

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `rml-study export`."""

    artifacts: Artifacts = None
    to: Annotated[
        Path | None, typer.Option("--to", help="Where to write (default: OUTPUT_DIR)")
    ] = None
    study: StudyOptions


@as_options
def export(options: ExportOptions) -> None:
    """Write best_model/ and list_acc.json, on any node; never over those of another study."""
    from hpo.folders import TRIAL_FILE, WorkFolders, read_json
    from hpo.results.artifacts import open_model_store
    from hpo.results.list_acc import write_list_acc
    from hpo.results.models import fetch_best, find_model
    from hpo.run.final_test import TestScore
    from hpo.store.study import best_trial

    with opened_study(options.study) as study:
        here = WorkFolders.of(options.study.output_dir, study.study_name)
        there = WorkFolders.of(options.to, study.study_name) if options.to else here
        there.output.mkdir(parents=True, exist_ok=True)
        model, listed = there.best_model, there.list_acc
        study_id = study.user_attrs.get(STUDY_ID)
        if model.exists() and read_json(model / TRIAL_FILE).get("study_id") != study_id:
            best = best_trial(study)
            kept = find_model(there, best, study_id) if best is not None else None
            its = f", whose model is in {kept}" if kept is not None else ""
            raise UsageError(
                f"{model} is not of study {study.study_name!r}{its}; choose another --to"
            )
        if not _is_older_list(listed, study):
            raise UsageError(f"{listed} is not of study {study.study_name!r}; choose another --to")
        write_list_acc(study, listed)
        say(f"wrote {listed}")
        missing = fetch_best(
            study, model, open_model_store(options.artifacts) if options.artifacts else None, here
        )
        if missing:
            raise HpoError(f"{model} is not written: {missing}")
        number = read_json(model / TRIAL_FILE)["trial"]
        if tested := TestScore.recorded(study, number):
            tested.write(model)
        say(f"wrote {model} (trial {number})")


def _is_older_list(path: Path, study: optuna.Study) -> bool:
    """Say whether a `list_acc.json` is absent, or an earlier one of the same study."""
    if not path.exists():
        return True
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        known = {trial.number: trial.params for trial in study.get_trials(deepcopy=False)}
        return all(entry["params"] == known.get(entry["number"]) for entry in entries)
    except (OSError, ValueError, TypeError, KeyError):
        return False
