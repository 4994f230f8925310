"""What is to be reached on one H100 or H200, without compilation; see docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RESIDENT = "plain, resident (a)"  # as train_throughput.py calls it


@dataclass(frozen=True)
class Goal:
    """A figure to reach; `find` looks for it in what the benchmarks measured."""

    text: str
    find: Callable[[dict[str, Any]], float]
    reached: Callable[[float], bool]
    form: str = "{:.2f}"

    def row(self, found: dict[str, Any], *, judged: bool) -> str:
        """Return the goal as a row of the summary's table."""
        try:
            value = self.find(found)
        except (KeyError, StopIteration):
            return f"| {self.text} | not measured | |"
        reached = ("yes" if self.reached(value) else "NO") if judged else "not judged"
        return f"| {self.text} | {self.form.format(value)} | {reached} |"


def goals(network: str) -> list[Goal]:
    """Return those of a whole search with a network."""

    def of(key: str) -> Callable[[dict[str, Any]], float]:
        return lambda found: float(
            next(entry for entry in found["search"] if entry["network"] == network)[key]
        )

    name = network.partition(":")[0]
    return [
        Goal(f"{name}: epoch ≤ 1.25 × its steps and evaluation", of("epoch_over_pure"),
             lambda value: value <= 1.25),
        Goal(f"{name}: evaluation ≤ 25 % of an epoch", of("evaluation_share"),
             lambda value: value <= 0.25, "{:.0%}"),
        Goal(f"{name}: first step ≤ 8 s, cold", of("first_step_cold_s"),
             lambda value: value <= 8, "{:.2f} s"),
        Goal(f"{name}: first step ≤ 1 s, warm", of("first_step_warm_s"),
             lambda value: value <= 1, "{:.2f} s"),
    ]  # fmt: skip


def speed(network: str, size: int, batch_size: int, least: float) -> Goal:
    """Return the goal of a training's images a second over those of the plain loop (a)."""

    def find(found: dict[str, Any]) -> float:
        entry = next(
            entry
            for entry in found[f"throughput {size}"]
            if entry["network"] == network and entry["batch_size"] == batch_size
        )
        rates = entry["images_per_s"]
        ours = next(rate for name, rate in rates.items() if name.startswith("rmldnn"))
        return float(ours / rates[RESIDENT])

    name = network.partition(":")[0]
    text = f"{name}, {size}², batch {batch_size}: ≥ {least} × plain loop (a)"
    return Goal(text, find, lambda value: value >= least)
