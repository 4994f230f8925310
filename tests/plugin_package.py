"""The package of docs/plugins.md, written to a folder and installed by pip."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support import clean_environment

DOC = (Path(__file__).parents[1] / "docs/plugins.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the documentation's blocks of code."""
    return re.findall(rf"```{language}\n(.*?)```", DOC, re.DOTALL)


def write_package(folder: Path) -> Path:
    """Write the documented package."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(blocks("toml")[0])
    (folder / "my_package.py").write_text("\n".join(blocks("python")))
    return folder


def write_broken(site: Path, name: str, entry_points: str, code: str) -> None:
    """Write a package as pip would leave it: a module `name` and its entry points."""
    info = site / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(entry_points)
    (site / f"{name}.py").write_text(code)


def install(package: Path, site: Path) -> None:
    """Install a package into a folder that PYTHONPATH may name."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", str(site), str(package)],
        check=True, env=clean_environment(),
    )  # fmt: skip
