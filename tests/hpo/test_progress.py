"""What a search says into a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hpo.progress import SILENCE_S, PlainReporter


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
