"""`--like`: what was best in another study is tried first, and that study is only read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from support import Run, list_acc, one_error, optimize, standin_settings

from hpo import open_study
from hpo.errors import StorageError, UsageError
from hpo.keys import TOKEN
from hpo.plan.like import like_trials
from hpo.plan.options import OutputOptions
from hpo.plan.space import SearchSpace
from hpo.store.database import close_storage, open_storage

RATE = "optimizer.learning_rate"
SEARCH = ("--optimizers", "adam,sgd", "--loss", "dice", "--search", f"{RATE}=1e-4..1e-1:log")


def rates(folder: Path) -> list[float]:
    return [entry["lr"] for entry in sorted(list_acc(folder), key=lambda e: e["number"])]  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    "like", ["{folder}", "{folder}#{name}", "sqlite:///{folder}/rml_optimize.db", "{name}"]
)
def test_best_of_another_study_is_tried_first(
    discs: Path, run: Run, tmp_path: Path, like: str
) -> None:
    earlier, name = tmp_path / "earlier", discs.parent.name
    worker = standin_settings(tmp_path, {})
    command = optimize(discs, "--worker", worker, "--jobs", 1, *SEARCH)
    result = run("rml-optimize", *command, "--num-trials", 6, "--output-dir", earlier)
    assert result.returncode == 0, result.stdout + result.stderr
    best = sorted(list_acc(earlier), key=lambda entry: -entry["max_acc"])  # type: ignore[operator]
    # By its name alone it is one of the same database.
    folder = earlier if like == "{name}" else tmp_path / "next"
    result = run(
        "rml-optimize", *command, "--num-trials", 4, "--study-name", "next",
        "--like", like.format(folder=earlier, name=name), "--output-dir", folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert rates(folder)[:3] == [entry["lr"] for entry in best[:3]]
    # What it found is none of this study's trials.
    assert [entry["number"] for entry in list_acc(folder)] == [0, 1, 2, 3]


@pytest.mark.parametrize("like", ["{folder}", "{folder}#{name}", "{name}"])
def test_likeness_to_itself_is_refused(discs: Path, run: Run, tmp_path: Path, like: str) -> None:
    command = optimize(discs, "--worker", standin_settings(tmp_path, {}), "--jobs", 1, *SEARCH)
    result = run("rml-optimize", *command, "--num-trials", 2)
    assert result.returncode == 0, result.stdout + result.stderr
    text = like.format(folder=tmp_path / "runs/..", name=discs.parent.name)
    message = one_error(run("rml-optimize", *command, "--num-trials", 6, "--like", text))
    assert "this search's own study" in message
    assert len(list_acc(tmp_path)) == 2


def test_likeness_that_cannot_be_read_is_named(discs: Path, run: Run, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {})
    command = optimize(discs, "--worker", worker, "--jobs", 1, *SEARCH)
    assert "--like nowhere" in one_error(run("rml-optimize", *command, "--like", "nowhere"))
    result = run("rml-optimize", *command, "--num-trials", 1)
    assert result.returncode == 0, result.stdout + result.stderr
    again = [*command, "--study-name", "again"]
    wrong = one_error(run("rml-optimize", *again, "--like", f"{tmp_path}#discz"))
    assert discs.parent.name in wrong
    other = ["--set", "optimizer.type=SGD", "--set", f"{RATE}=0.1", "--search",
             "optimizer.momentum=0.1..0.9"]  # fmt: skip
    nothing = [*optimize(discs, "--worker", worker), "--loss", "dice", *other]
    message = one_error(
        run("rml-optimize", *nothing, "--like", discs.parent.name, "--study-name", "other")
    )
    assert "no finished trial whose values are in this search's space" in message


URLS = {
    "postgresql://me:SECRET@127.0.0.1:1/x#mine": "--like postgresql+psycopg://me:***@127.0.0.1:1/x:",
    "postgresql://me@127.0.0.1:1/x?password=SECRET": "--like postgresql+psycopg://me@127.0.0.1:1/x:",
    "postgresql://me:12#SECRET@127.0.0.1:1/x": "--like postgresql+psycopg://me:***@127.0.0.1:1/x:",
    "postgresql//me:SECRET@127.0.0.1:1/x": "--like: not a database URL",
    "sqlite://me:SECRET@/nowhere.db": "--like sqlite://me:***@/nowhere.db: no such file",
}


@pytest.mark.parametrize("like", URLS)
def test_likeness_shows_no_password(discs: Path, run: Run, tmp_path: Path, like: str) -> None:
    command = optimize(discs, "--worker", standin_settings(tmp_path, {}), *SEARCH)
    result = run("rml-optimize", *command, "--like", like)
    message = one_error(result)
    assert "SECRET" not in result.stdout + result.stderr
    assert URLS[like] in message.replace("sqlite:///", "sqlite://")


def test_likeness_by_a_password_on_the_command_line_is_warned_of(tmp_path: Path) -> None:
    earlier = f"sqlite:///{tmp_path}/e.db"
    close_storage(open_storage(earlier))
    warnings: list[str] = []
    url = f"postgresql://me:SECRET@127.0.0.1:1/{tmp_path.name}"
    output, space = OutputOptions(output_dir=tmp_path), SearchSpace(())
    with pytest.raises(StorageError, match=r"^--like postgresql\+psycopg://me:\*\*\*@"):
        like_trials(url, output, space, "own", warnings.append)
    (told,) = warnings
    assert "--like: every user of this machine can read the password" in told
    assert "RML_STORAGE_FILE" in told and "SECRET" not in told
    with pytest.raises(UsageError, match="say which study"):
        like_trials(earlier, output, space, "own", warnings.append)
    assert len(warnings) == 1


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_likeness_writes_nothing_into_what_it_reads(
    discs: Path, run: Run, tmp_path: Path, dry: tuple[str, ...]
) -> None:
    (tmp_path / "em.db").touch()
    command = optimize(discs, "--worker", standin_settings(tmp_path, {}), *SEARCH, *dry)
    for like in (f"sqlite:///{tmp_path}/em.db", f"sqlite:///{tmp_path}/em.db#mine"):
        message = one_error(run("rml-optimize", *command, "--like", like))
        assert "em.db: the database has no studies yet" in message
    assert (tmp_path / "em.db").stat().st_size == 0


def test_commands_that_read_make_no_tables(run: Run, tmp_path: Path) -> None:
    (tmp_path / "em.db").touch()
    url = f"sqlite:///{tmp_path}/em.db"
    for command in (["trials"], ["show", "--trial", "0"]):
        assert "has no studies yet" in one_error(run("rml-study", *command, "--storage", url))
    with pytest.raises(StorageError, match="has no studies yet"):
        open_study(url)
    assert (tmp_path / "em.db").stat().st_size == 0


def make_earlier(folder: Path, name: str, values: list[dict[str, Any]]) -> str:
    """Write a study with finished trials of ours, the best first; return its database's URL."""
    url = f"sqlite:///{folder}/rml_optimize.db"
    folder.mkdir(exist_ok=True)
    study = optuna.create_study(
        study_name=name, storage=url, direction="maximize", load_if_exists=True
    )
    for number, params in enumerate(values):
        score = 0.9 - number / 100
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={
                    "optimizer.type": CategoricalDistribution(("Adam", "SGD")),
                    RATE: FloatDistribution(1e-4, 1e-1, log=True),
                },
                value=score,
                intermediate_values={1: score},
                user_attrs={TOKEN: "ours"},
            )
        )
    return url


def test_two_studies_of_one_name_are_both_tried(discs: Path, run: Run, tmp_path: Path) -> None:
    one = {"optimizer.type": "Adam", RATE: 0.01}
    others = [{"optimizer.type": "SGD", RATE: 0.02}, {"optimizer.type": "SGD", RATE: 0.03}]
    make_earlier(tmp_path / "a", "data", [one, others[0]])
    make_earlier(tmp_path / "b", "data", [others[0], others[1]])
    worker = standin_settings(tmp_path, {})
    command = optimize(discs, "--worker", worker, "--jobs", 1, *SEARCH)
    again = ("--try", f"optimizer.type=Adam,{RATE}=0.01")
    result = run("rml-optimize", *command, *again, "--like", tmp_path / "a", "--num-trials", 2)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("learning_rate=0.01 ") == 1, result.stdout
    assert rates(tmp_path) == [0.01, 0.02]
    result = run("rml-optimize", *command, "--like", tmp_path / "b", "--num-trials", 3)
    assert result.returncode == 0, result.stdout + result.stderr
    assert rates(tmp_path) == [0.01, 0.02, 0.03]
