"""Writes the report at the end of a search, which never fails for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import optuna

from hpo.errors import EndingError, HpoError
from hpo.keys import ABOUT, ATTEMPT
from hpo.launchers import Launcher, Slot
from hpo.plan.spec import StudySpec
from hpo.records import AboutRecord
from hpo.report.page import write_report
from hpo.results.best_model import Results
from hpo.run.cases import CaseMaker
from hpo.run.settings import selection_text
from hpo.store.study import best_trial
from trainer.errors import TrainerError

Warn = Callable[[str], None]


def note_about(spec: StudySpec, study: optuna.Study) -> None:
    """Record with the study what its report says and no trial does."""
    entry: AboutRecord = {
        "is_synthetic": spec.is_synthetic,
        "select_on": spec.select_on,
        "selected_on": selection_text(spec),
        "scored_at": spec.scored_at,
        "averaged": spec.averaged,
        "published": spec.published,
        "data": f"{spec.data.root}: {spec.survey.num_train} training images, "
        f"{spec.survey.num_test} test images",
    }
    if study.user_attrs.get(ABOUT) != entry:
        study.set_user_attr(ABOUT, entry)


def make_cases(
    spec: StudySpec,
    study: optuna.Study,
    results: Results,
    launcher: Launcher,
    slot: Slot,
    *,
    stopping: threading.Event,
    warn: Warn,
) -> None:
    """Have the winner segment the images that its report shows, where its model is here."""
    best, stored = best_trial(study), results.stored_trial(study)
    if best is None or stored is None or stored.number != best.number or stopping.is_set():
        return
    if spec.data.test is not None:
        name, data, part = "test", spec.data, spec.data.test
    else:
        assert spec.trained.test is not None
        name, data, part = "validation", spec.trained, spec.trained.test
    if name == "test" and spec.select_on != "test" and not spec.folders.test(best.number).is_dir():
        return  # another node has scored it, and the test images are looked at once
    mount = next(mount for mount in spec.mounts if mount.path == data.root)
    maker = CaseMaker(
        folders=spec.folders,
        trial=best.number,
        attempt=int(best.user_attrs.get(ATTEMPT, 1)),
        model=spec.folders.best_model,
        mount=mount,
        data=data,
        part=part,
        name=name,
        launcher=launcher,
        slot=slot,
        stopping=stopping,
    )
    try:
        maker.make()
    except EndingError:
        return
    except (HpoError, TrainerError) as error:
        warn(f"the report has no cases: {str(error).splitlines()[0]}")
    except OSError as error:
        warn(f"the report has no cases: {error.filename}: {error.strerror}")


def report_at_end(study: optuna.Study, output: Path, warn: Warn) -> Path | None:
    """Write the report; None, with one line that says why, if that fails."""
    try:
        return write_report(study, output)
    except OSError as error:
        warn(f"no report: {error.filename or output}: {error.strerror}; see rml-study report")
    except Exception as error:  # noqa: BLE001  # a search never fails for its report
        warn(f"no report ({type(error).__name__}: {error}); see rml-study report")
    return None
