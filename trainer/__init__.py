"""The engine: config -> network -> training -> Dice -> predictions. No driver here.

`load_model` gives a trained model in Python; torch is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.model import Prediction, SegmentationModel, load_model

__version__ = "0.1.0"
__all__ = ["Prediction", "SegmentationModel", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """Load what is asked for by name."""
    if name in ("Prediction", "SegmentationModel", "load_model"):
        import importlib

        return getattr(importlib.import_module("trainer.model"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
