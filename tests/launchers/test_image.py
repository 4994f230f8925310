"""The worker's image holds what the engine imports, and is named in one place."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from hpo.launchers import DEFAULT_IMAGE

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "pydantic_core": "pydantic"}


def imported_by_the_engine():
    """Yield what is imported at the head of its modules; inside functions are the extras."""
    for path in (ROOT / "trainer").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def test_image_installs_every_package_that_the_engine_imports():
    modules = set(imported_by_the_engine()) - sys.stdlib_module_names - {"trainer"}
    packages = {DISTRIBUTIONS.get(module, module) for module in modules}
    installed = set((ROOT / "Dockerfile").read_text().split())
    assert packages <= installed


def test_image_name_is_printed_for_makefiles():
    command = [sys.executable, ROOT / "hpo" / "launchers" / "image.py"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == DEFAULT_IMAGE
