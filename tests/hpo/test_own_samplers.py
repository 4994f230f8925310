"""Samplers and pruners of the user's own: the documented package's, and broken ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import optuna
import pytest
from plugin_package import write_broken
from support import (
    BIN,
    Run,
    clean_environment,
    one_error,
    optimize,
    standin_settings,
    states,
)

from hpo.errors import StorageError
from hpo.plan.optuna_plugins import SAMPLERS_GROUP, plugin_errors_named
from hpo.store.agreement import noticing_deletion
from hpo.store.database import close_storage, open_storage

OWN = ("--sampler", "qmc", "--pruner", "percentile")
BROKEN = """
[rml_optimize.samplers]
no_sampler = broken_optuna:none
no_module = nowhere_at_all:sampler
no_arguments = broken_optuna:no_arguments
raises_later = broken_optuna:raises_later
tpe = broken_optuna:none
[rml_optimize.pruners]
no_pruner = broken_optuna:none
raises_pruning = broken_optuna:raises_pruning
"""
BROKEN_CODE = """
import optuna


def none(settings): return None


def no_arguments(): return None


class Sampler(optuna.samplers.RandomSampler):
    def sample_independent(self, study, trial, name, distribution): raise KeyError("lesion")


class Pruner(optuna.pruners.BasePruner):
    def prune(self, study, trial): raise KeyError("lesion")


def raises_later(settings): return Sampler()


def raises_pruning(settings): return Pruner()
"""


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A PYTHONPATH with plug-ins that do not work."""
    write_broken(tmp_path / "site", "broken_optuna", BROKEN, BROKEN_CODE)
    return str(tmp_path / "site")


def load(folder: Path) -> optuna.Study:
    storage = f"sqlite:///{folder / 'rml_optimize.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_own_sampler_draws_what_it_draws_in_plain_optuna(
    discs: Path, run: Run, tmp_path: Path, standin: str, documented_plugins: Path
) -> None:
    given = optimize(discs, "--num-trials", 6, "--worker", standin, "--jobs", 1, *OWN)
    result = run(
        "rml-optimize", *given, "--optimizers", "adam", "--loss", "dice", "--seed", 7,
        "--search", "optimizer.beta1=0.5..0.99", PYTHONPATH=str(documented_plugins),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    found = load(tmp_path).trials
    plain = optuna.create_study(
        sampler=optuna.samplers.QMCSampler(seed=7, warn_independent_sampling=False)
    )
    for trial in found:
        expected = plain.ask(trial.distributions)
        plain.tell(expected, 0.5)
        assert trial.params == expected.params
    assert len(found[0].distributions) == 2
    assert "qmc, percentile pruning after epoch 3" in result.stdout


def test_own_pruner_stops_poor_trials(
    discs: Path, run: Run, tmp_path: Path, documented_plugins: Path
) -> None:
    curves = {str(number): [0.8] * 10 for number in range(5)} | {"5": [0.1] * 10}
    worker = standin_settings(tmp_path, {"curve": curves, "delay": {"5": 0.6}})
    given = optimize(discs, "--num-trials", 6, "--worker", worker, "--jobs", 1)
    result = run(
        "rml-optimize", *given, "--num-epochs", "10", "--pruner", "percentile",
        PYTHONPATH=str(documented_plugins),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path) == dict.fromkeys(range(5), "COMPLETE") | {5: "PRUNED"}


def test_drivers_of_a_study_agree_on_an_own_pruner(
    discs: Path, run: Run, tmp_path: Path, standin: str, documented_plugins: Path
) -> None:
    site = str(documented_plugins)
    given = [*optimize(discs, "--num-trials", 8, "--worker", standin, "--jobs", 1), *OWN]
    drivers = [
        subprocess.Popen(
            [BIN / "rml-optimize", *given], cwd=tmp_path, text=True,
            env=clean_environment() | {"PYTHONPATH": site},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]  # fmt: skip
    for driver in drivers:
        text, _ = driver.communicate(timeout=120)
        assert driver.returncode == 0, text
    assert set(states(tmp_path)) == set(range(8))
    assert "percentile" in one_error(run("rml-optimize", *given[:-2], PYTHONPATH=site))


def test_help_and_errors_name_what_is_installed(
    discs: Path, run: Run, documented_plugins: Path
) -> None:
    site = str(documented_plugins)
    text = " ".join(run("rml-optimize", "--help", PYTHONPATH=site).stdout.split())
    for name in ("qmc", "percentile", "monai-unet", "digits_dice"):
        assert f"installed plug-ins: {name}" in text
    assert "plug-ins" not in run("rml-optimize", "--help").stdout
    dry = ("--dry-run", *optimize(discs, *OWN))
    assert run("rml-optimize", *dry, PYTHONPATH=site).returncode == 0
    error = one_error(run("rml-optimize", *dry))
    assert "--sampler: unknown name 'qmc'" in error
    assert "Known: tpe, random" in error
    dry = ("--dry-run", *optimize(discs, "--pruner", "percentil"))
    error = one_error(run("rml-optimize", *dry, PYTHONPATH=site))
    assert "--pruner: unknown name 'percentil'; did you mean 'percentile'?" in error


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--sampler", "no_sampler", "expected Optuna's BaseSampler, received NoneType"),
        ("--sampler", "no_module", "cannot be loaded: ModuleNotFoundError"),
        ("--sampler", "no_arguments", "TypeError"),
        ("--sampler", "raises_later", "KeyError: 'lesion'"),
        ("--pruner", "no_pruner", "expected Optuna's BasePruner, received NoneType"),
        ("--pruner", "raises_pruning", "KeyError: 'lesion'"),
    ],
)
def test_broken_sampler_or_pruner_is_refused_by_name(
    discs: Path, run: Run, tmp_path: Path, broken: str, option: str, name: str, said: str
) -> None:  # fmt: skip
    # a pruner is not asked at the last epoch, so there must be one before it to be seen
    slow = standin_settings(tmp_path, {"epoch_s": 0.3})
    given = optimize(discs, "--num-trials", 3, "--worker", slow, "--jobs", 1, option, name)
    result = run("rml-optimize", *given, PYTHONPATH=broken)
    error = one_error(result)
    assert said in error
    assert f"plug-in {name!r}" in error
    assert "of package broken_optuna" in error
    if (tmp_path / "rml_optimize.db").exists():  # what fails for all trials fails none
        assert set(states(tmp_path).values()) <= {"WAITING"}


def test_study_that_was_deleted_is_no_fault_of_a_plugin(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(storage=storage, study_name="gone")
    optuna.delete_study(study_name="gone", storage=storage)
    with (
        pytest.raises(StorageError, match="'gone' was deleted"),
        noticing_deletion("gone"),
        plugin_errors_named(SAMPLERS_GROUP, "qmc"),
    ):
        storage.get_study_user_attrs(study._study_id)
    close_storage(storage)


def test_name_of_ours_is_ours(
    discs: Path, run: Run, tmp_path: Path, standin: str, broken: str
) -> None:
    given = optimize(discs, "--num-trials", 1, "--worker", standin, "--sampler", "tpe")
    result = run("rml-optimize", *given, PYTHONPATH=broken)
    assert result.returncode == 0, result.stdout + result.stderr


def test_study_file_names_an_own_pruner(
    discs: Path, run: Run, tmp_path: Path, standin: str, documented_plugins: Path
) -> None:
    made = run("rml-optimize", "--new-study", "mine", "--data", discs)
    assert made.returncode == 0, made.stderr
    path = tmp_path / "mine/study.toml"
    path.write_text(f'pruner = "percentile"\n{path.read_text()}')
    given = ("--dry-run", "--study", "mine", *optimize(discs))
    result = run("rml-optimize", *given, PYTHONPATH=str(documented_plugins))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "percentile pruning" in " ".join(result.stdout.replace("|", " ").split())
    error = one_error(run("rml-optimize", *given))
    assert f"{Path('mine') / 'study.toml'}: pruner: unknown name 'percentile'" in error
