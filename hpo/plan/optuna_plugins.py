"""Samplers and pruners of the user's own: functions of a study's settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hpo.errors import HpoError, UsageError
from trainer.errors import TrainerError
from trainer.plugins import describe, describe_plugin, load_plugin

SAMPLERS_GROUP = "rml_optimize.samplers"
PRUNERS_GROUP = "rml_optimize.pruners"
_OPTIONS = {SAMPLERS_GROUP: "--sampler", PRUNERS_GROUP: "--pruner"}


def make_by_plugin(group: str, name: str, settings: object, kind: type[Any]) -> Any:
    """Have a plug-in make a sampler or a pruner.

    Raises:
        ConfigError: it is missing or cannot be imported.
        UsageError: it fails, or gives something else.
    """
    option = _OPTIONS[group]
    function = load_plugin(group, name)
    with plugin_errors_named(group, name):
        made = function(settings)
    if not isinstance(made, kind):
        raise UsageError(
            f"{option}: plug-in {describe_plugin(group, name)}: expected Optuna's "
            f"{kind.__name__}, received {type(made).__name__}"
        )
    return made


@contextlib.contextmanager
def plugin_errors_named(group: str, name: str) -> Iterator[None]:
    """Turn what a plug-in raises into one line; the database's errors and ours stay.

    Raises:
        UsageError: the plug-in failed, as it will for every trial.
    """
    from optuna.exceptions import OptunaError
    from optuna.storages._rdb.models import NOT_FOUND_MSG
    from sqlalchemy.exc import SQLAlchemyError

    from hpo.store.sampling import UnfitValuesError

    try:
        yield
    except (HpoError, TrainerError, UnfitValuesError, OptunaError, SQLAlchemyError, OSError):
        raise
    except Exception as error:
        if isinstance(error, KeyError) and error.args == (NOT_FOUND_MSG,):
            raise  # Optuna's, of a study that was deleted
        where = describe_plugin(group, name)
        raise UsageError(f"{_OPTIONS[group]}: plug-in {where}: {describe(error)}") from error
