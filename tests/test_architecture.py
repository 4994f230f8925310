"""Who imports whom, what must stay light, and what is written down in one place only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import hpo
import trainer
from hpo.folders import WorkFolders

HEAVY = ("torch", "tensorflow", "keras")
HPO = Path(hpo.__file__).parent
ROOT = HPO.parent


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
        "hpo.report.page",
        "hpo.run.dryrun",
        "hpo.data.cli",
        "studies.jsrt.archive",
        "studies.prepare.pipeline",
        "studies.sunnybrook.archive",
        "hpo.launchers.docker",
        "hpo.trackers.tensorboard",
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


def strings_in(source: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield line and text of each string, parts of f-strings too, and whether it ends a path."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    ends = {id(n.right) for n in ast.walk(tree) if isinstance(n, ast.BinOp)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value, id(node) in ends


NAMES = re.compile(
    r"best_model|list_acc\.json|rml_optimize\.db|survey\.json|contents\.json|trial\.json|plots|report\.html"
    r"|(trial|attempt|split|test_of_trial|cases_of_trial|replay_of_trial)_\*?"
)
NAMES_IN_PATHS = {"runs", "data", "inputs", "cache", "confirm"}  # words with other meanings too


def test_files_of_a_study_are_named_in_one_module() -> None:
    found = [
        f"{source.relative_to(HPO)}:{line}: {text!r}"
        for source in sorted(HPO.rglob("*.py"))
        for line, text, ends_path in strings_in(source)
        if NAMES.fullmatch(text) or (ends_path and text in NAMES_IN_PATHS)
    ]
    assert {entry.partition(":")[0] for entry in found} == {
        "folders.py",
        "store/databaseurl.py",  # the database may be elsewhere
        "launchers/inside.py",  # folders within a container
    }, found


def test_folders_of_trials_are_found_again_and_links_are_not(tmp_path: Path) -> None:
    folders = WorkFolders.of(tmp_path, "s")
    assert folders.trials() == {}
    for number in (2, 123456):
        folders.attempt(number, 1).mkdir(parents=True)
    folders.attempt(2, 3).mkdir()
    (folders.study / "trial_x").mkdir()
    (folders.study / "trial_00007").symlink_to(folders.trial(2))
    assert folders.trials() == {number: folders.trial(number) for number in (2, 123456)}
    assert folders.attempts(2) == [folders.attempt(2, 1), folders.attempt(2, 3)]


def test_names_of_database_attributes_stand_in_one_file() -> None:
    root = Path(hpo.__file__).parent
    elsewhere = [
        f"{file.relative_to(root)}:{node.lineno}"
        for file in root.rglob("*.py")
        if file != root / "keys.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("rml:")
    ]
    assert not elsewhere


def test_names_of_database_attributes_import_nothing() -> None:
    tree = ast.parse((Path(hpo.__file__).parent / "keys.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(getattr(node, "module", None) == "__future__" for node in imports)


@pytest.mark.parametrize("package", [hpo, trainer], ids=["hpo", "trainer"])
def test_tree_of_errors_names_each_with_its_base(package: ModuleType) -> None:
    root = Path(package.__file__ or "").parent
    base = {"hpo": "HpoError", "trainer": "TrainerError"}[package.__name__]
    classes = [
        (node.name, ast.unparse(node.bases[0]))
        for file in root.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.bases
    ]
    known = {base}
    while found := {name for name, parent in classes if parent in known} - known:
        known |= found
    bases = {name: parent for name, parent in classes if parent in known}

    tree: dict[str, str] = {}
    path: list[str] = []
    text = ast.get_docstring(ast.parse((root / "errors.py").read_text(encoding="utf-8")))
    for line in re.finditer(r"^([│├└─ ]*)(\w+)  ", text or "", re.MULTILINE):
        del path[len(line[1]) // 4 :]
        if path:
            tree[line[2]] = path[-1]
        path.append(line[2])
    assert tree == bases


ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
OURS = r"hpo|trainer|studies|tests|docs|scripts|benchmarks|deploy"
PATHS = re.compile(rf"\b(?:{OURS})/[\w./-]*|\b[\w/]+\.(?:py|md)\b|\bpyproject\.toml\b")


def test_paths_that_the_architecture_names_exist() -> None:
    paths = {match[0].rstrip(".") for match in PATHS.finditer(ARCHITECTURE)} - {"__init__.py"}
    assert len(paths) > 80
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]


@pytest.mark.parametrize("package", ["hpo", "trainer"])
def test_layers_are_drawn_as_they_are_checked(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c.get("containers") == [package])
    drawing = re.search(rf"`{package}/`:\n\n```\n(.*?)```", ARCHITECTURE, re.DOTALL)
    assert drawing is not None
    drawn = [re.split(r"\s{2,}", line)[0].strip() for line in drawing[1].splitlines()]
    assert drawn == layers


def test_hints_install_what_the_extras_list() -> None:
    from trainer.extras import EXTRAS, how_to_install

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    extras = {k: v for k, v in extras.items() if k not in ("dev", "docs")}  # no command's
    assert {name: list(packages) for name, packages in EXTRAS.items()} == extras
    assert how_to_install("s3") == f"{sys.executable} -m pip install 'boto3>=1.34'"
