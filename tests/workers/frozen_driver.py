"""The driver, stopped for good (or until it is woken) while it puts its first model in place.

`frozen_driver.py holder|other …`: the other waits for two seconds only.
"""

import os
import signal
import sys
import time

from hpo import folders
from hpo.cli import main
from hpo.results import models

real_make, role = models.make_model, sys.argv.pop(1)
stops = [signal.SIGSTOP]


def make_model(*arguments: object) -> None:
    real_make(*arguments)
    if stops:
        os.kill(os.getpid(), stops.pop())
        time.sleep(1)  # another thread gets the signal, and this one would go on until then


if role == "holder":
    models.make_model = make_model
else:
    folders.LOCK_PATIENCE_S = 2.0
sys.exit(main(sys.argv[1:]))
