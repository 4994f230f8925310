"""A validation part shows every class where it can, and is the plain choice where that does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpo.dataset.stratify import choose_validation

NAMES = [f"patient {index}" for index in range(10)]


def test_class_of_few_groups_is_on_both_sides() -> None:
    classes = {name: {0} for name in NAMES} | {NAMES[7]: {0, 1}, NAMES[9]: {0, 1}}
    chosen = choose_validation(NAMES, 2, classes)
    assert len(chosen) == 2
    assert len(chosen & {NAMES[7], NAMES[9]}) == 1


def test_choice_that_shows_all_is_left_alone() -> None:
    classes = {name: {0, 1} for name in NAMES}
    assert choose_validation(NAMES, 3, classes) == set(NAMES[:3])
    assert choose_validation(NAMES, 3, {}) == set(NAMES[:3])


@given(
    st.lists(st.frozensets(st.integers(0, 2)), min_size=10, max_size=10),
    st.integers(1, 9),
)
def test_number_of_groups_stays_and_foreground_is_on_both_sides(shown, number) -> None:
    classes = dict(zip(NAMES, shown, strict=True))
    chosen = choose_validation(NAMES, number, classes)
    assert len(chosen) == number
    assert chosen <= set(NAMES)
    assert chosen == choose_validation(NAMES, number, classes)
    rarest = min((c for c in range(3) if sum(c in s for s in shown) > 1), default=None,
                 key=lambda c: (sum(c in s for s in shown), c))  # fmt: skip
    if rarest is not None:
        assert any(rarest in classes[name] for name in chosen)
        assert any(rarest in classes[name] for name in set(NAMES) - chosen)
