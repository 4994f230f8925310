"""Ready-made studies: one folder each, with a study.toml and what its data need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from studies.demo.ultrasound import generate as _generate_ultrasound

# Data sets that are made up here, by the name in a study.toml; each writes into an empty folder,
# or leaves alone what it wrote there before.
GENERATORS: dict[str, Callable[[Path], None]] = {"demo": _generate_ultrasound}
