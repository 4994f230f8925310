"""Dotted paths name one field, whoever writes them."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import ConfigError
from trainer.keypath import get_path, join_path, parse_setting, parse_value, set_path, split_path

NAMES = st.text(st.characters(exclude_characters=".[]"), min_size=1, max_size=8)
KEYS = st.builds(
    lambda first, rest: (first, *rest), NAMES, st.lists(NAMES | st.integers(0, 99), max_size=5)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(KEYS)
def test_path_survives_joining_and_splitting(keys: tuple) -> None:
    assert split_path(join_path(keys)) == keys


@given(KEYS.filter(lambda keys: all(isinstance(key, str) for key in keys)), JSON)
def test_value_set_is_the_value_found(keys: tuple, value: object) -> None:
    tree: dict = {}
    set_path(tree, join_path(keys), value)
    assert get_path(tree, join_path(keys)) == value


@given(st.dictionaries(NAMES, JSON, max_size=3), KEYS, JSON)
def test_setting_a_path_changes_that_path_alone_or_is_refused(tree, keys, value) -> None:
    before = copy.deepcopy(tree)
    path = join_path(keys)
    try:
        set_path(tree, path, value)
    except ConfigError as error:
        assert str(error).startswith(keys[0])
        return
    assert get_path(tree, path) == value
    assert {k: v for k, v in tree.items() if k != keys[0]} == {
        k: v for k, v in before.items() if k != keys[0]
    }


@given(st.text(max_size=20))
def test_any_text_splits_or_is_refused(text: str) -> None:
    try:
        keys = split_path(text)
    except ConfigError:
        return
    assert split_path(join_path(keys)) == keys


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a[", "a[]", "a[x]", "a[-1]", "[0]", "a]b"])
def test_malformed_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="not a config key"):
        split_path(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a[0]", r"a\[0\]: a is not a list"),
        ("l[2]", r"l\[2\]: the list has 2 entries"),
        ("a.b.c.d", r"a\.b\.c: a\.b is not an object"),
        ("l.x", r"l\.x: l is not an object"),
    ],
)
def test_step_into_the_wrong_kind_is_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_path({"a": {"b": 1}, "l": [1, 2]}, path, 3)


def test_absent_path_gives_the_default() -> None:
    tree = {"a": {"b": [1]}}
    assert [get_path(tree, path, "?") for path in ("a.c", "a.b[1]", "a.b.c", "x.y[0]")] == [
        "?"
    ] * 4


@given(JSON)
def test_json_is_read_as_json(value: object) -> None:
    assert parse_value(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["adam", "./a b.json", "1e", "None", ""])
def test_anything_else_is_the_text_itself(text: str) -> None:
    assert parse_value(text) == text


def test_setting_splits_at_the_first_equals_sign() -> None:
    assert parse_setting("layers=unet:width=8,depth=2") == ("layers", "unet:width=8,depth=2")
    assert parse_setting("neural_network.data.batch_size = 8") == ("data.batch_size", 8)
    for text in ("batch_size", "=3", "a..b=3"):
        with pytest.raises(ConfigError):
            parse_setting(text)
