"""Runs `rml-optimize` as a driver that kills itself at a moment that no clock would hit.

`dying_driver.py MOMENT FILE ARGUMENTS…`: `in claim` is inside the claiming transaction, `claimed`
between the claim and the first report; `stopped in claim` stops it there instead. FILE is made
just before. It happens at its second claim.
"""

import os
import signal
import sys
from pathlib import Path

from hpo import lease, trial
from hpo.cli import main

MOMENT, FILE = sys.argv[1:3]
SIGNAL = signal.SIGSTOP if MOMENT.startswith("stopped") else signal.SIGKILL
calls = 0


def die_at_the_second_call(method):
    def wrapped(*arguments, **named):
        global calls
        calls += 1
        if calls == 2:
            Path(FILE).touch()
            os.kill(os.getpid(), SIGNAL)
        return method(*arguments, **named)

    return wrapped


if MOMENT.endswith("in claim"):
    office = lease.LeaseOffice
    office._start_new = die_at_the_second_call(office._start_new)
else:
    runner = trial.TrialRunner
    runner._watch = die_at_the_second_call(runner._watch)
sys.exit(main(sys.argv[3:]))
