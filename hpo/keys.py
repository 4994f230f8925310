"""Names the attributes that this program writes to a study's database.

They are in databases that exist, so a name never changes its meaning. Nothing is imported here:
also commands that never load Optuna read them.
"""

from __future__ import annotations

OURS = "rml:"  # so begin those that nobody else has a use for

# Attributes of a study.
TITLE = "rml:title"
STUDY_ID = "rml:id"  # tells a study from one of the same name in a database that was deleted
DATABASE_ID = "rml:database"  # the same in all studies of a database
SQLITE_HOST = "rml:sqlite_host"  # the one host that may use a SQLite file
IDENTITY = "rml:identity"  # what its drivers must agree on
NUM_TRIALS = "rml:num_trials"  # the total that they have agreed on
BUDGET = "rml:budget"  # the hours that it may take, and since when; see hpo.store.budget
ABOUT = "rml:about"  # what its report says of the data and of how trials are compared
TESTED = "rml:test:{}"  # the test score of that trial's model
TEST_TASK = "rml:testing"  # the lease on the final test
DRIVER = "rml:driver:{}"  # that driver's sign of life; a system attribute

# Attributes of a trial.
TOKEN = "lease"  # whose the trial is
ATTEMPT = "attempt"  # of those that were started, the last
CRASHES = "crashes"  # attempts that ended in a crash of the worker
UNTIL = "rml:until"  # the epoch after which it pauses next; without it, the first rung
PAUSED = "rml:paused"  # of a trial that waits at a rung: where, and with what it ends if it stays
BEGAN = "rml:began"  # when a trial that was taken anew was first taken: UTC, as text
SPENT = "rml:spent"  # seconds of the attempts that gave it back or paused it
DEATHS = "deaths"  # [drivers that died in a row without an epoch more, last epoch by then]
PROVENANCE = "rml:provenance"  # with what and where it runs
END = "rml:end"  # how it ended
MODEL = "rml:model"  # how its model is made from its checkpoint, and where else it is
FIRST = "rml:first"  # of a trial whose values were asked for before any was sampled: these
REQUEUED_FROM = "rml:requeued_from"  # the failed trial whose values it tries again
CONSTRAINTS = "constraints"  # Optuna's dashboard reads them by this name
MEMORY = "memory"  # the constraint that a trial violates which runs out of it
