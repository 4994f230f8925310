"""The driver: command line, study, slots, launchers, results.

`optimize` and `open_study` are the commands' twins in Python; what they need is loaded when they
are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.errors import HpoError
    from hpo.python.opened import OpenedStudy, open_study
    from hpo.python.search import SearchResult, optimize

__all__ = ["HpoError", "OpenedStudy", "SearchResult", "open_study", "optimize"]

_MODULES = {
    "HpoError": "hpo.errors",
    "OpenedStudy": "hpo.python.opened",
    "SearchResult": "hpo.python.search",
    "open_study": "hpo.python.opened",
    "optimize": "hpo.python.search",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for by name."""
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
