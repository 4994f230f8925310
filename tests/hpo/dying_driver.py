"""Runs `rml-optimize` as a driver that kills itself at a moment that no clock would hit.

`dying_driver.py MOMENT FILE ARGUMENTS…`: `in claim` is inside the claiming transaction, `claimed`
between the claim and the first report; `stopped in claim` stops it there instead. FILE is made
just before. It happens at its second claim. `before told` and `after told` are those of its first
trial, whose model is the best by then; `testing` is at the start of the final test. Of a trial
that is paused: `pausing` before it is given back and `paused` after, `promoting` inside the
transaction by which it goes on, `moved` when its state has been moved, and `telling` inside the
one that ends those that never go on.
"""

import os
import signal
import sys
from pathlib import Path

from hpo.cli import main
from hpo.run import attempt, final_test, tell, trial
from hpo.store import lease, pausing

MOMENT, FILE = sys.argv[1:3]
SIGNAL = signal.SIGSTOP if MOMENT.startswith("stopped") else signal.SIGKILL
calls = 0


def die(*_arguments, **_named):
    Path(FILE).touch()
    os.kill(os.getpid(), SIGNAL)


def die_at_the_second_call(method):
    def wrapped(*arguments, **named):
        global calls
        calls += 1
        if calls == 2:
            die()
        return method(*arguments, **named)

    return wrapped


def die_after(function):
    def wrapped(*arguments, **named):
        function(*arguments, **named)
        die()

    return wrapped


lease_manager = lease.LeaseManager
if MOMENT.endswith("in claim"):
    pausing.start_new = die_at_the_second_call(pausing.start_new)
elif MOMENT == "pausing":
    lease_manager.pause = die
elif MOMENT == "paused":
    tell.Teller._record_pause = die
elif MOMENT == "promoting":
    pausing.promote = die_after(pausing.promote)
elif MOMENT == "moved":
    attempt._State._move = die_after(attempt._State._move)
elif MOMENT == "telling":
    pausing._tell_pruned = die_after(pausing._tell_pruned)
elif MOMENT == "before told":
    lease_manager.finish = die
elif MOMENT == "after told":
    tell.Teller._record = die
elif MOMENT == "testing":
    final_test._evaluate = die
else:
    runner = trial.TrialRunner
    runner._watch = die_at_the_second_call(runner._watch)
sys.exit(main(sys.argv[3:]))
