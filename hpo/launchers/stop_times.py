"""How long a worker is given: to end when asked, to write its state, to end by itself."""

from __future__ import annotations

STOP_GRACE_S = 0.5  # after SIGTERM; a pruned trial's worker is gone within a second
# For one that writes the state that somebody goes on from, 390 MB of a RESUNET. A scheduler kills
# the driver too, some 30 s after it has asked it to end (Slurm's KillWait, Kubernetes).
KEEP_STATE_GRACE_S = 10.0
# A warm worker hears of a stop after its present step, which takes longest on a CPU. Starting
# another one costs about as much.
STEP_GRACE_S = 3.0
END_GRACE_S = 120.0  # after its last epoch a worker has nothing more to tell us
LOST_GRACE_S = 5.0  # for one that we can no longer talk to
KILL_PROCESS_TIMEOUT_S = 5.0  # until processes are gone after SIGKILL
KILL_CONTAINER_TIMEOUT_S = 10.0  # the same of a container, which its engine removes too
