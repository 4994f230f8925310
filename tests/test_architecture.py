"""Who imports whom, and what must stay light: looked up in a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "tensorflow", "keras")


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads in a new interpreter."""
    code = f"{statement}\nimport sys\nsys.stdout.write(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "hpo.cli",
        "hpo.run.session",
        "hpo.run.dryrun",
        "hpo.data.cli",
        "studies.jsrt.archive",
        "studies.prepare.pipeline",
        "studies.sunnybrook.archive",
        "hpo.launchers.docker",
        "trainer.config",
        "trainer.rundir",
        "trainer.setup.fit",
        "trainer.networks",
        "trainer.data.dataset",
        "studies",
    ],
)
def test_driver_loads_no_torch(module: str) -> None:
    assert not loaded_by(f"import {module}") & set(HEAVY)


def test_commands_on_a_study_load_no_torch() -> None:
    assert not loaded_by("from hpo.study.cli import make_app\nmake_app()") & set(HEAVY)


def test_help_loads_no_optuna() -> None:
    modules = loaded_by(
        "import hpo.cli\ntry:\n hpo.cli.app(args=['--help'])\nexcept SystemExit: pass"
    )
    assert not modules & {"optuna", "sqlalchemy", "cv2", "docker", *HEAVY}


def test_looking_at_the_status_loads_no_optuna() -> None:
    modules = loaded_by("from hpo.study.cli import make_app\nmake_app(['status'])")
    assert not modules & {"optuna", "pydantic", "numpy", "docker", *HEAVY}


@pytest.mark.parametrize(
    "module", ["trainer.commands.run", "trainer.cli", "trainer.commands.export"]
)
def test_worker_knows_nothing_of_the_driver(module: str) -> None:
    modules = loaded_by(f"import {module}")
    assert not modules & {"hpo", "studies", "optuna", "typer", "sqlalchemy", "docker"}
