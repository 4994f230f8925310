"""Goes on with a study whose pruner was the default when it began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna.storages import RDBStorage

from hpo.keys import IDENTITY
from hpo.plan.pruners import EARLIER_DEFAULT
from hpo.plan.spec import StudySpec


def with_stored_pruner(spec: StudySpec, attributes: Mapping[str, Any] | None) -> StudySpec:
    """Return the search with the pruner of its study, where the user has chosen none.

    So the same command goes on with what an earlier release began. `attributes` are the study's,
    None of one that is not there.
    """
    stored = (attributes or {}).get(IDENTITY, {}).get("pruner")
    is_earlier = not spec.names_pruner and stored == EARLIER_DEFAULT
    return replace(spec, pruner=EARLIER_DEFAULT) if is_earlier else spec


def read_attributes(rdb: RDBStorage, name: str) -> dict[str, Any] | None:
    """Return a study's attributes, None if there is none of that name."""
    try:
        return rdb.get_study_user_attrs(rdb.get_study_id_from_name(name))
    except KeyError:
        return None
