"""Goes on with a study whose pruner was the default when it began."""

from __future__ import annotations

from dataclasses import replace

from hpo.keys import IDENTITY
from hpo.plan.pruners import EARLIER_DEFAULT
from hpo.plan.spec import StudySpec
from hpo.store.agreement import peek


def with_stored_pruner(spec: StudySpec, url: str) -> StudySpec:
    """Return the search with the pruner of its study, where the user has chosen none.

    The same command goes on with what an earlier release began.
    """
    if spec.names_pruner:
        return spec
    known = peek(url, spec.name)
    identity = {} if known is None else (known.attributes or {}).get(IDENTITY, {})
    earlier = replace(spec, pruner=EARLIER_DEFAULT)
    return earlier if identity.get("pruner") == EARLIER_DEFAULT else spec
