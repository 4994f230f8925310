"""What a search says into a log."""

from __future__ import annotations

import io
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console
from support import Run, optimize, standin_settings, start, wait_for

from hpo.console import tell
from hpo.plan.spec import StudySpec
from hpo.run.outcome import Outcome
from hpo.run.progress import SILENCE_S, LiveReporter, PlainReporter, Tally
from hpo.run.settings import show_settings
from trainer.direction import Direction


def test_long_trial_shows_in_a_log_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    log = io.StringIO()
    reporter = PlainReporter(Console(file=log, width=200))
    reporter.trial_started(7, 0, {"loss.function": "Dice"})
    for epoch in range(1, 12):  # a line after each silence, not for each epoch
        clock = epoch * SILENCE_S / 4
        reporter.epoch_done(7, 0, epoch, 0.5 + epoch / 100)
    first, *others = [line.split(" ", 1)[1] for line in log.getvalue().splitlines()]
    assert first == "trial   7 started: function=Dice"
    assert others == [
        "trial   7 epoch 4, Dice 0.5400 so far", "trial   7 epoch 8, Dice 0.5800 so far",
    ]  # fmt: skip


def test_a_trial_that_is_given_back_is_not_shown_with_a_score(discs: Path, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.2, "epochs": 200})
    process = start(
        tmp_path, *optimize(discs, "--worker", worker, "--jobs", 1, "--num-epochs", 200)
    )
    wait_for(lambda: any(tmp_path.glob("runs/*/*/attempt_1/out_test.txt")))
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    (line,) = [line for line in output.splitlines() if "trial   0 given back" in line]
    assert re.search(r"given back after \d+ epochs? in \d+ s \| 0/50 trials", line), output
    assert "Dice" not in line
    assert "no trial is finished and has a score yet" in output


def test_only_the_reason_is_called_an_error_and_the_log_is_shown_as_a_log(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"end": {"all": 2}, "say": "device : cpu"})
    result = run("rml-optimize", *optimize(discs, "--worker", worker, "--jobs", 1))
    reason, *log = result.stderr.splitlines()
    assert reason.startswith("error: trial 0: the worker refused its config or data")
    assert log == ["    | device : cpu"]


def test_finished_trials_line_on_a_terminal_has_its_values() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, color_system=None)
    tally = Tally(3, 0, None, Direction.MAXIMIZE)
    reporter = LiveReporter(console, num_slots=1, num_epochs=5, tally=tally)
    chosen = {"optimizer.type": "RMSprop", "optimizer.learning_rate[RMSprop]": 0.001234}
    reporter.trial_started(7, 0, chosen)
    outcome = Outcome(number=7, end="complete", score=0.8, epoch=3, num_epochs=5, seconds=61)
    reporter.trial_ended(0, outcome, tally)
    reporter.close()
    printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    start = printed.index("trial   7 complete")
    told = " ".join(printed[start : start + 250].split())
    assert told.startswith(
        "trial 7 complete Dice 0.8000 (epoch 3 of 5) in 1 min 1 s | type=RMSprop "
        "learning_rate[RMSprop]=0.00123"
    )


def test_prose_is_folded_between_words_on_a_terminal_and_whole_in_a_log() -> None:
    text = "  " + "some words and learning_rate[RMSprop]=0.00174 " * 6
    for is_terminal in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, width=40, force_terminal=is_terminal, color_system=None)
        tell(console, text)
        lines = screen.getvalue().splitlines()
        assert " ".join(screen.getvalue().split()) == " ".join(text.split())
        assert len(lines) > 1 if is_terminal else len(lines) == 1
        assert not is_terminal or max(map(len, lines)) <= 40


def test_settings_fit_a_screen_of_80_columns_and_no_word_is_broken() -> None:
    rows = [
        ("search optimizer.learning_rate[RMSprop]",
         "0.0001 .. 0.01, log scale (when optimizer.type = RMSprop)"),
        ("launcher", "local, because no Docker engine answers at unix:///var/run/docker.sock"),
    ]  # fmt: skip
    spec = cast("StudySpec", SimpleNamespace(is_synthetic=False, warnings=()))
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, color_system=None)
    show_settings(spec, rows, console)
    printed = screen.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    for word in " ".join(text for row in rows for text in row).split():
        assert word in printed
