"""`open_study`: a study that is there, as Optuna has it, with what is ours beside it."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import optuna
from optuna.storages import RDBStorage, get_storage
from optuna.trial import FrozenTrial

from hpo.errors import HpoError, UsageError
from hpo.folders import WorkFolders
from hpo.keys import STUDY_ID
from hpo.objective import objective_of
from hpo.results.list_acc import list_entry
from hpo.results.models import find_model
from hpo.run.final_test import TestScore
from hpo.store.database import close_storage, open_storage
from hpo.store.databaseurl import file_url, parse_url
from hpo.store.directions import direction_of
from hpo.store.study import (
    best_epoch,
    best_trial,
    finished_trials,
    is_foreign,
    last_score,
    score,
)
from hpo.study.common import choose_study, database_url
from hpo.study.options import DatabaseOptions
from trainer.direction import Direction
from trainer.extras import how_to_install

if TYPE_CHECKING:
    import pandas as pd


class OpenedStudy:
    """A study in its database, until `close`; also a context manager.

    Attributes:
        study: Optuna's own Study, for `optuna.visualization` and everything else.
        output: the folder of best_model/ and runs/.
    """

    def __init__(self, rdb: RDBStorage, study: optuna.Study, output: Path) -> None:
        self.study = study
        self.output = output
        self._study_id = study.user_attrs.get(STUDY_ID)
        self._close = weakref.finalize(self, close_storage, rdb)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.study_name

    @property
    def best_trial(self) -> FrozenTrial:
        """The best finished trial by what the study compares them by, pruned ones among them.

        Optuna's `study.best_trial` looks at complete trials only.

        Raises:
            UsageError: none has a score yet.
        """
        trial = best_trial(self.study)
        if trial is None:
            raise UsageError(f"study {self.name!r} has no finished trial of rml-optimize yet")
        return trial

    @property
    def best_score(self) -> float:
        """The best trial's `objective`, on the part that trials are compared on."""
        value = score(self.best_trial, direction_of(self.study))
        assert value is not None  # `best_trial` has one
        return value

    @property
    def objective(self) -> str:
        """What trials are compared by: `dice_dataset`, unless the search said otherwise."""
        return objective_of(self.study.user_attrs).key

    @property
    def best_params(self) -> dict[str, Any]:
        """The best trial's sampled values, by their names in the study."""
        return dict(self.best_trial.params)

    @property
    def test_score(self) -> TestScore | None:
        """The best trial's score on the test images, if it was made."""
        return TestScore.recorded(self.study, self.best_trial.number)

    @property
    def best_model(self) -> Path:
        """The folder of the best trial's model, for `trainer.load_model`.

        Raises:
            HpoError: it is not in the output folder.
        """
        found = self.find_model()
        if found is None:
            raise HpoError(
                f"no model of trial {self.best_trial.number} in {self.output}; bring it there "
                "with: rml-study export"
            )
        return found

    def find_model(self) -> Path | None:
        """Return the folder of the best trial's model, None where it is not here."""
        return self.find_model_of(self.best_trial)

    def find_model_of(self, trial: FrozenTrial) -> Path | None:
        """Return the folder of a trial's model, None where it is not here."""
        return find_model(WorkFolders.of(self.output, self.name), trial, self._study_id)

    def trials_dataframe(self) -> pd.DataFrame:
        """Return one row a finished trial: score, epochs, seconds, host, then `params_…`.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UsageError(f"pandas is not installed; try {how_to_install('pandas')}") from None
        columns, direction = _columns(self.objective), direction_of(self.study)
        rows = [
            _row(trial, columns, direction)
            for trial in finished_trials(self.study)
            if not is_foreign(trial)
        ]
        return pandas.DataFrame(rows, columns=None if rows else columns)

    def report(self, path: str | PathLike[str] | None = None) -> Path:
        """Write the study as one HTML page, and return where it is.

        Args:
            path: the page, or a folder for it (default: report.html in the output folder).

        Raises:
            OSError: it cannot be written.
        """
        from hpo.report.page import write_report

        page = write_report(self.study, self.output)
        wanted = page if path is None else Path(path)
        if wanted.is_dir():
            wanted /= page.name
        if wanted.absolute() != page.absolute():
            shutil.copyfile(page, wanted)
        return wanted

    def close(self) -> None:
        """Close the connections to the database."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<study {self.name!r} in {self.output}>"


def _columns(objective: str) -> list[str]:
    return [
        "number", "state", objective, "epoch", f"last_{objective}", "epochs", "seconds", "host",
        "seed",
    ]  # fmt: skip


def _row(trial: FrozenTrial, columns: Sequence[str], direction: Direction) -> dict[str, Any]:
    entry = list_entry(trial)
    values = (
        trial.number,
        trial.state.name.lower(),
        score(trial, direction),
        best_epoch(trial, direction),
        last_score(trial),
        entry["epochs"],
        entry["seconds"],
        entry["host"],
        entry["seed"],
    )
    params = {f"params_{name}": value for name, value in trial.params.items()}
    return dict(zip(columns, values, strict=True)) | params


def open_study(
    where: str | PathLike[str] = ".",
    study_name: str | None = None,
    *,
    output_dir: str | PathLike[str] | None = None,
) -> OpenedStudy:
    """Open a study that a search has made.

    Args:
        where: the output folder of the search, or its database: the file, or a URL.
        study_name: the study; may be left out where the database has one.
        output_dir: where best_model/ and runs/ are (default: the folder, that of the file, or the
            current one).

    Raises:
        UsageError: no database there, no such study, or several and no name.
        StorageError: the database does not answer, or is another program's.
    """
    text = str(where)
    if "://" not in text:
        folder = Path(text)
        if folder.is_file():
            return open_at(file_url(folder), study_name, output_dir or folder.parent)
        return open_at(
            database_url(DatabaseOptions(output_dir=folder)), study_name, output_dir or folder
        )
    parsed = parse_url(text)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
        raise UsageError(f"open_study: no such file: {parsed.database}")
    return open_at(text, study_name, output_dir or ".")


def open_at(url: str, name: str | None, output: str | PathLike[str]) -> OpenedStudy:
    """Open a study by its database's URL."""
    rdb = open_storage(url, makes_tables=False)
    try:
        storage = get_storage(rdb)
        chosen = choose_study(name, optuna.get_all_study_names(storage))
        study = optuna.load_study(study_name=chosen, storage=storage)
    except BaseException:
        close_storage(rdb)
        raise
    return OpenedStudy(rdb, study, Path(output).absolute())
