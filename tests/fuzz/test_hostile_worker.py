"""A short fuzz of the driver against a hostile worker; `make fuzz` has a long one."""

from __future__ import annotations

from fuzz.hostile_worker import run


def test_no_folder_of_a_hostile_worker_harms_the_driver() -> None:
    results = run(seed=1, count=40)
    assert not results.failures, "\n".join(results.failures)
    assert results.num_cases == 40
