"""What mask values mean is decided from the values, said, and refused where it is a guess."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.survey import count_values, decide_coding
from trainer.errors import DataError


def counts(*values: int) -> dict[int, int]:
    return {value: 1000 + value for value in values}


def test_0_and_255_are_background_and_foreground() -> None:
    coding = decide_coding(counts(0, 255), where="masks")
    assert (coding.kind, coding.num_classes) == ("binary", 2)
    assert coding.encode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    assert coding.describe() == "{0, 255}: binary, 255 is the foreground"


@pytest.mark.parametrize("num_classes", [2, 3, 5, 64])
def test_small_integers_are_class_ids_and_never_rescaled(num_classes: int) -> None:
    coding = decide_coding(counts(*range(num_classes)), where="masks")
    assert (coding.kind, coding.num_classes) == ("classes", num_classes)
    ids = np.arange(num_classes, dtype=np.uint8)[None]
    assert (coding.encode(ids) == ids).all()
    assert f"class ids, {num_classes} classes, not rescaled" in coding.describe()


def test_rare_class_may_be_absent() -> None:
    assert decide_coding(counts(0, 1, 3), where="masks").num_classes == 4


@pytest.mark.parametrize("values", [(0,), (255,), (1,)])
def test_masks_of_one_value_are_known_as_such(values: tuple[int, ...]) -> None:
    assert decide_coding(counts(*values), where="masks").is_single_valued


@pytest.mark.parametrize("values", [(0, 128, 255), (0, 127), (7, 9), tuple(range(0, 256, 3))])
def test_other_values_are_refused_with_values_counts_and_keys(values) -> None:
    with pytest.raises(DataError) as caught:
        decide_coding(counts(*values), where="data/targets")
    message = str(caught.value)
    assert message.startswith("data/targets: mask values are neither {0, 255} nor class ids")
    assert f"{values[-1]} ({1000 + values[-1]:,} pixels)" in message
    assert "data.mask_values" in message
    assert "data.mask_threshold" in message
    assert f"({len(values)} values)" in message or len(values) <= 8
    assert len(message) < 400


def test_listed_values_are_classes_in_the_list_s_order() -> None:
    coding = decide_coding(counts(0, 128, 255), where="masks", mask_values=(255, 0, 128))
    assert coding.encode(np.array([[0, 128, 255]], np.uint8)).tolist() == [[1, 2, 0]]


def test_value_outside_the_list_is_refused_with_its_count() -> None:
    with pytest.raises(DataError, match=r"outside data\.mask_values \[0, 255\]: 9 \(1,009 pixels"):
        decide_coding(counts(0, 9, 255), where="masks", mask_values=(0, 255))


def test_threshold_makes_blurred_borders_binary() -> None:
    coding = decide_coding(counts(0, 99, 100, 255), where="masks", mask_threshold=100)
    assert coding.encode(np.array([[0, 99, 100, 255]], np.uint8)).tolist() == [[0, 0, 1, 1]]


def test_targets_that_are_no_masks_may_be_continuous() -> None:
    coding = decide_coding(counts(*range(200)), where="masks", continuous_allowed=True)
    assert (coding.kind, coding.num_classes) == ("continuous", 0)
    assert decide_coding(counts(0, 255), where="masks", continuous_allowed=True).kind == "binary"


@given(st.lists(st.integers(0, 65_535), min_size=1, max_size=50), st.booleans())
def test_counts_are_exact_for_both_depths(values: list[int], is_wide: bool) -> None:
    dtype = np.uint16 if is_wide else np.uint8
    mask = np.array([values]).astype(dtype)
    found = count_values(mask)
    assert found == Counter(mask.ravel().tolist())


@given(st.dictionaries(st.integers(0, 65_535), st.integers(1, 10), min_size=1, max_size=70))
def test_any_values_are_coded_or_refused(found: dict[int, int]) -> None:
    try:
        coding = decide_coding(found, where="masks")
    except DataError:
        return
    encoded = coding.encode(np.array([sorted(found)], np.uint16))
    assert encoded.max() < coding.num_classes
    assert len(set(encoded[0].tolist())) == len(found)
