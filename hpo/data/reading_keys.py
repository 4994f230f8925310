"""The config's keys that say how data are read, for commands that only look at data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpo.errors import UsageError
from hpo.plan.studyfile import find_study, load_study
from trainer.config import parse_config
from trainer.config.messages import hint
from trainer.keypath import parse_setting, set_path

KEYS = ("data.mask_values", "data.mask_threshold", "data.follow_symlinks", "loss.ignore_index")


@dataclass(frozen=True)
class ReadingKeys:
    """How masks and files are read; the config's own keys, see docs/config.md."""

    mask_values: tuple[int, ...] | None = None
    mask_threshold: int | None = None
    follow_symlinks: bool = False
    ignore_index: int | None = None


def reading_keys(study: str | None, settings: Sequence[str]) -> ReadingKeys:
    """Return what a study and settings KEY=VALUE say; settings go before the study.

    Raises:
        UsageError: another key, or no such study.
        ConfigError: a value that the config does not take.
    """
    config = load_study(find_study(study)).config if study is not None else {}
    chosen: dict[str, Any] = {key: config[key] for key in KEYS if key in config}
    for text in settings:
        key, value = parse_setting(text)
        if key not in KEYS:
            raise UsageError(f"--set {key}: no key of reading; {hint(key, list(KEYS))}")
        chosen[key] = value
    network: dict[str, Any] = {
        "layers": "unet",
        "data": {"input_path": "-", "target_path": "-"},
        "loss": {"function": "BCE"},
    }
    for key, value in chosen.items():
        set_path(network, key, list(value) if isinstance(value, tuple) else value)
    parsed = parse_config({"neural_network": network}, "--set")
    assert parsed.loss is not None
    return ReadingKeys(
        parsed.data.mask_values,
        parsed.data.mask_threshold,
        parsed.data.follow_symlinks,
        parsed.loss.ignore_index,
    )
