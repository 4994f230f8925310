"""Reads the keyword arguments of `optimize` by the command's own parser.

So a mistake is found, and said, as on the command line, and an option that the command gets is an
argument here.
"""

from __future__ import annotations

import inspect
import json
import keyword
from collections.abc import Iterable, Mapping
from typing import Any

import typer

from hpo.cli import app
from hpo.command_line import build
from hpo.errors import UsageError
from hpo.plan.options import Options
from trainer.config.messages import hint
from trainer.errors import ConfigError
from trainer.keypath import parse_value

NO_SEARCH = ("help", "version", "new_study")  # options that search nothing
_PARSE_ERROR: type[Any] = typer.BadParameter.__bases__[0]  # Typer's own, or click's


def read_arguments(arguments: Mapping[str, Any]) -> Options:
    """Return the options of a search that are meant by keyword arguments.

    Args:
        arguments: name of an option, with `_` for `-` and without the dashes -> its value; None
            for the default.

    Raises:
        UsageError: no such option, or a value that it does not take.
    """
    options = _options()
    words = []
    for name, value in arguments.items():
        if name not in options:
            raise UsageError(f"optimize: no option {name!r}; {hint(name, list(options))}")
        words += _words(name, options[name], value)
    command = typer.main.get_command(app)
    try:
        context = command.make_context("rml-optimize", words)
    except _PARSE_ERROR as error:
        raise UsageError(error.format_message()) from None
    read: Options = build(Options, context.params)
    return read


def signature() -> inspect.Signature:
    """Return the signature that notebooks show: every option with its default."""
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option.default)
            for name, option in _options().items()
        ]
    )


def _options() -> dict[str, Any]:
    command = typer.main.get_command(app)
    return {
        _name(parameter): parameter
        for parameter in command.params
        if parameter.name not in NO_SEARCH
    }


def _name(option: Any) -> str:
    """Return `trial_timeout` of `--trial-timeout`, `try_` of `--try`, which Python keeps."""
    name = str(option.opts[0]).removeprefix("--").replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _words(name: str, option: Any, value: Any) -> list[str]:
    """Return what one would type for a value."""
    long = option.opts[0]
    if value is None:
        return []
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"optimize: {name}: expected True or False, received {value!r}")
        if value:
            return [long]
        return list(option.secondary_opts[:1])
    if option.multiple:
        if "," in (option.metavar or ""):  # each is several fields at once
            entries = [value] if isinstance(value, Mapping | str) else value
            value = [_joined(entry) if isinstance(entry, Mapping) else entry for entry in entries]
        if isinstance(value, Mapping):
            value = [f"{key}={_text(entry, name)}" for key, entry in value.items()]
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, Iterable):
            raise UsageError(f"optimize: {name}: expected {{KEY: VALUE}}, received {value!r}")
        return [f"{long}={each}" for each in values]
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    return [f"{long}={value}"]


def _joined(values: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={_choice(value)}" for key, value in values.items())


def _text(value: Any, option: str) -> str:
    """Return a value as KEY=VALUE has it; of `search` a list is one of choices."""
    if option == "search" and isinstance(value, list | tuple):
        return ",".join(_choice(each) for each in value)
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value)
    except TypeError:
        return str(value)


def _choice(value: Any) -> str:
    """Return one choice; a text in quotes where it would be read as something else."""
    if not isinstance(value, str):
        return _text(value, "")
    try:
        is_plain = parse_value(value) == value and not set(value) & set(',"[{(')
    except ConfigError:
        is_plain = False
    return value if is_plain else json.dumps(value)
