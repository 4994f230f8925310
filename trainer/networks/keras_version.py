"""Which Keras wrote a network: some names mean another function in Keras 2 than in Keras 3."""

from __future__ import annotations

import re

KERAS_2, KERAS_3 = 2, 3


def keras_major(obj: object, version: object = None) -> int:
    """Return the major version of Keras that wrote a network's JSON.

    It is the version that the file states, at the network or as `version` beside it; else what
    the form of its objects tells; else 2, whose JSON people write by hand.
    """
    if isinstance(obj, dict):
        version = obj.get("keras_version", version)
    stated = re.match(r"\d{1,3}(?=\.|$)", version) if isinstance(version, str) else None
    if stated:
        return int(stated.group())
    return _by_form(obj)


def _by_form(obj: object) -> int:
    """Look for what only one version writes.

    `module` and `build_config` are no sign: Keras 2.13 and later write them into `.keras` too.
    """
    has_module, keras2 = False, False
    stack = [obj]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            if item.get("class_name") in ("DTypePolicy", "__keras_tensor__"):
                return KERAS_3
            if "batch_shape" in item:
                return KERAS_3
            keras2 = keras2 or "batch_input_shape" in item
            has_module = has_module or "module" in item
            stack += item.values()
    return KERAS_3 if has_module and not keras2 else KERAS_2
