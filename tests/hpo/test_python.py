"""`optimize` and `open_study` in Python: the twins of the commands."""

from __future__ import annotations

import asyncio
import inspect
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from support import SLOW, Run, clean_environment, one_error, states, wait_for, workers_of

from hpo import HpoError, OpenedStudy, open_study, optimize
from hpo.errors import UsageError
from hpo.python import arguments
from hpo.python.arguments import read_arguments
from trainer.errors import TrainerError

# Within pytest Optuna's warnings are not those that our import has turned off.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SMALL: dict[str, Any] = {
    "layers": "unet:width=4,depth=2", "resize": (32, 32), "gpu": False, "num_epochs": 3,
    "jobs": 1, "study_name": "s", "num_trials": 3, "quiet": True, "pruner": "none",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_options_are_those_of_the_command_line() -> None:
    found = read_arguments({
        "data": Path("my data"),
        "optimizers": ["adam", "sgd"],
        "resize": (128, 96),
        "gpu": False,
        "warm": False,
        "lr_range_min": 1e-4,
        "lr_scheduler": True,
        "trial_timeout": 90,
        "set": {"data.transforms[0].resize": [64, 64], "outfile": "o.txt", "data.grayscale": True},
        "search": {
            "data.batch_size": [8, 16],
            "layers": ["unet:width=4,depth=2", "resunet"],
            "optimizer.weight_decay": "1e-6..1e-2:log",
        },
        "jobs": None,
    })  # fmt: skip
    assert found.data.data == Path("my data")
    assert (found.search.optimizers, found.data.resize) == ("adam,sgd", "128,96")
    assert (found.worker.gpu, found.worker.warm, found.worker.jobs) == (False, False, None)
    assert found.search.lr_range_min == 1e-4
    assert found.search.lr_scheduler
    assert found.output.trial_timeout_s == 90
    assert found.search.set == [
        "data.transforms[0].resize=[64, 64]", "outfile=o.txt", "data.grayscale=true",
    ]  # fmt: skip
    assert found.search.search == [
        "data.batch_size=8,16",
        'layers="unet:width=4,depth=2",resunet',
        "optimizer.weight_decay=1e-6..1e-2:log",
    ]
    assert "trial_timeout" in inspect.signature(optimize).parameters
    assert list(inspect.signature(optimize).parameters)[:3] == ["data", "layers", "num_trials"]
    assert "version" not in inspect.signature(optimize).parameters  # it searches nothing


def test_an_option_of_several_fields_takes_objects() -> None:
    option = SimpleNamespace(
        opts=["--try"], secondary_opts=[], multiple=True, is_flag=False, metavar="KEY=VALUE,…"
    )
    assert arguments._name(option) == "try_"
    first = {"optimizer.type": "adam", "layers": "unet:width=4,depth=2", "data.batch_size": 8}
    text = 'optimizer.type=adam,layers="unet:width=4,depth=2",data.batch_size=8'
    for value in (first, [first], text):
        assert arguments._words("try_", option, value) == [f"--try={text}"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_trial": 3}, "no option 'num_trial'; did you mean 'num_trials'?"),
        ({"num_trials": 0}, "'--num-trials'"),
        ({"num_epochs": "many"}, "'--num-epochs'"),
        ({"launcher": "slurm"}, "'slurm' is not one of 'auto', 'local'"),
        ({"gpu": "no"}, "gpu: expected True or False, received 'no'"),
        ({"search": 8}, "search: expected {KEY: VALUE}, received 8"),
    ],
)
def test_what_no_option_takes_is_named(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        optimize(**options)
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"data": "nowhere"}, ("--data", "nowhere")),
        ({"search": {"data.batch_size": [8]}}, ("--search", "data.batch_size=8")),
        ({"layers": "unett"}, ("--layers", "unett")),
        ({"set": {"data.batch_sise": 8}}, ("--set", "data.batch_sise=8")),
        ({"small": True}, ("--small",)),
    ],
)
def test_mistakes_have_the_commands_words_and_exit_code(
    run: Run, discs: Path, options: dict[str, Any], arguments: tuple[str, ...]
) -> None:
    with pytest.raises((HpoError, TrainerError)) as caught:
        optimize(**{"data": discs, **options})
    command = run("rml-optimize", "--data", discs, *arguments)
    assert caught.value.exit_code == command.returncode
    said = one_error(command, code=command.returncode)
    assert said.replace("error: ", "").split() == str(caught.value).split()


def test_a_search_ends_as_the_command_does(discs: Path, standin: str, run: Run) -> None:
    result = optimize(data=discs, worker=standin, **SMALL)
    with result.study as opened:
        assert isinstance(opened, OpenedStudy)
        assert isinstance(opened.study, optuna.Study)
        assert len(opened.study.trials) == 3
        assert opened.best_trial.number == result.best_trial
        assert opened.best_score == result.best_score
        assert opened.best_params == result.best_params
        page = opened.report("page.html")
        assert "<html" in page.read_text()[:200]
        Path("pages").mkdir()
        assert opened.report("pages") == Path("pages/report.html")
        assert Path("pages/report.html").is_file()
        assert opened.best_model == result.best_model == Path("best_model").absolute()
    best = json.loads(run("rml-study", "best", "--json").stdout)
    assert (best["trial"], best["dice_dataset"]) == (result.best_trial, result.best_score)
    assert best["params"] == result.best_params
    again = optimize(data=discs, worker=standin, **SMALL | {"num_trials": 4})
    assert len(again.study.study.trials) == 4
    again.study.close()


def test_a_dry_run_makes_no_study(discs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = optimize(data=discs, dry_run=True, **SMALL | {"quiet": False})
    assert '"neural_network"' in capsys.readouterr().out
    assert result.best_trial is None
    with pytest.raises(UsageError, match="a dry run makes no study"):
        _ = result.study
    assert not Path("rml_optimize.db").exists()


def test_runs_in_a_thread_and_in_an_event_loop(discs: Path, standin: str) -> None:
    handler = signal.getsignal(signal.SIGINT)
    found: list[Any] = []
    arguments = {"data": discs, "worker": standin, **SMALL, "num_trials": 1}
    thread = threading.Thread(target=lambda: found.append(optimize(**arguments)))
    thread.start()
    thread.join()

    async def inside() -> Any:
        return optimize(**arguments | {"num_trials": 2})

    found.append(asyncio.run(inside()))
    for result in found:
        assert result.best_trial is not None
        result.study.close()
    assert states(Path()) == {0: "COMPLETE", 1: "COMPLETE"}
    assert signal.getsignal(signal.SIGINT) is handler


INTERRUPTED = """
import os, sys
from hpo import optimize
try:
    optimize(data=sys.argv[1], worker=sys.argv[2], layers="unet:width=4,depth=2",
             resize=(32, 32), gpu=False, num_epochs=200, jobs=1, num_trials=3)
except {error}:
    print("and goes on")
    sys.exit(7)
"""


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "SystemExit as error")],
)
def test_an_interrupt_ends_workers_and_gives_trials_back(
    discs: Path, tmp_path: Path, number: signal.Signals, error: str
) -> None:
    code = INTERRUPTED.format(error=error)
    process = subprocess.Popen(
        [sys.executable, "-c", code, discs, f"{sys.executable} {SLOW}"], cwd=tmp_path,
        env=clean_environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_for(lambda: list(tmp_path.rglob("out_test.txt")), timeout_s=120)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 7, output + errors
    assert "and goes on" in output
    assert "given back" in output
    assert not workers_of(tmp_path)
    assert states(tmp_path) == {0: "WAITING"}


def test_open_study_takes_a_folder_a_url_and_a_name(discs: Path, standin: str) -> None:
    for name in ("one", "two"):
        optimize(data=discs, worker=standin, **SMALL | {"study_name": name}).study.close()
    with pytest.raises(UsageError, match="the database has: one, two"):
        open_study(".")
    with pytest.raises(UsageError, match="did you mean 'one'"):
        open_study(".", "onne")
    with pytest.raises(UsageError, match="no such file"):
        open_study("sqlite:///nowhere.db")
    with pytest.raises(UsageError, match=r"no rml_optimize.db in"):
        open_study("nowhere")
    with open_study("sqlite:///rml_optimize.db", "one") as one, open_study(".", "two") as two:
        assert [one.name, two.name] == ["one", "two"]
        assert two.best_model.is_dir()
    with open_study("rml_optimize.db", "one") as one:
        assert (one.name, one.output) == ("one", Path.cwd())


def test_each_study_of_a_folder_has_its_own_model(discs: Path, standin: str, run: Run) -> None:
    first, second = (
        optimize(data=discs, worker=standin, **SMALL | {"study_name": name, "num_trials": 1})
        for name in ("first", "second")
    )
    assert first.best_model == first.study.best_model == Path("best_model-first").absolute()
    assert second.best_model == second.study.best_model == Path("best_model").absolute()
    for result in (first, second):
        assert result.best_model is not None
        owner = json.loads((result.best_model / "trial.json").read_text())["study"]
        assert owner == result.name
        assert f"The model is in <code>{result.best_model}</code>" in (
            result.study.report("page.html").read_text()
        )
    ours = ("--study-name", "first")
    export = run("rml-study", "export", *ours, "--to", "new")
    assert export.returncode == 0, export.stdout + export.stderr
    assert json.loads(Path("new/best_model/trial.json").read_text())["study"] == "first"
    assert f"whose model is in {first.best_model}" in one_error(run("rml-study", "export", *ours))
    Path("images").mkdir()
    command = ("predict", "--images", "images", "--out", "out", "--worker", standin, "--no-gpu")
    predict = run("rml-study", *command, *ours)
    assert "model of trial 0: best_model-first" in predict.stdout
    shutil.rmtree("best_model-first")
    assert first.best_model is None
    with pytest.raises(HpoError, match="rml-study export"):
        _ = first.study.best_model
    assert "The model of trial 0 is not here" in first.study.report("page.html").read_text()
    export = run("rml-study", "export", *ours, "--to", "newer")
    assert f"is not in {Path('best_model').absolute()} any more" in one_error(export, code=1)
    for result in (first, second):
        result.study.close()


def test_the_table_of_trials_has_values_and_scores(discs: Path, standin: str) -> None:
    pandas = pytest.importorskip("pandas")
    result = optimize(data=discs, worker=standin, **SMALL)
    with result.study as opened:
        table = opened.trials_dataframe()
    assert isinstance(table, pandas.DataFrame)
    assert table["number"].tolist() == [0, 1, 2]
    assert table["dice_dataset"].max() == result.best_score
    assert (
        table.loc[result.best_trial, "params_optimizer.type"]
        == (result.best_params["optimizer.type"])
    )


def test_without_pandas_one_line_says_what_to_install(
    discs: Path, standin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with optimize(data=discs, worker=standin, **SMALL).study as opened:  # noqa: SIM117
        with pytest.raises(UsageError, match=r"-m pip install 'pandas>=2.2'"):
            opened.trials_dataframe()


def test_the_packages_are_imported_without_torch_and_optuna() -> None:
    code = "import sys, hpo, trainer; print({'torch', 'optuna', 'typer'} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = __import__("hpo").optimise
