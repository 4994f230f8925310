"""The search space: reading it from text, sampling it, building configs with it."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.errors import UsageError
from hpo.plan.space import (
    Categorical,
    Dimension,
    Range,
    SearchSpace,
    build_config,
    parse_search,
    parse_values,
)
from hpo.plan.studyfile import TUTORIAL, find_study, load_study
from trainer.config import OPTIMIZERS, parse_config

numbers = st.floats(min_value=1e-9, max_value=1e9, allow_nan=False)


@given(low=numbers, high=numbers, log=st.booleans())
def test_range_is_read_as_written(low: float, high: float, log: bool) -> None:
    text = f"{low!r}..{high!r}" + (":log" if log else "")
    if low < high:
        assert parse_values(text, "here") == Range(low, high, False, log)
    else:
        with pytest.raises(UsageError, match="is not below"):
            parse_values(text, "here")


@given(low=st.integers(-100, 100), width=st.integers(1, 100), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_integer_range_samples_integers_inside(low: int, width: int, seed: int) -> None:
    values = parse_values(f"{low}..{low + width}", "here")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    value = values.suggest(study.ask(), "x")
    assert isinstance(value, int)
    assert low <= value <= low + width


@given(st.lists(st.integers(), min_size=2, max_size=6, unique=True))
def test_list_is_read_as_written(values: list[int]) -> None:
    assert parse_values(",".join(map(str, values)), "here") == Categorical(tuple(values))


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_search(text)
    except UsageError as error:
        assert str(error)


def test_lists_as_choices_keep_their_brackets() -> None:
    dimension = parse_search("data.transforms[0].resize=[128,128],[256,256]")
    assert dimension.values == Categorical(("[128, 128]", "[256, 256]"))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    chosen = SearchSpace((dimension,)).suggest(study.ask())
    assert chosen["data.transforms[0].resize"] in ([128, 128], [256, 256])


@pytest.mark.parametrize("study_file", [TUTORIAL, load_study(find_study("demo"))])
def test_every_sampled_config_is_valid(study_file) -> None:
    space = study_file.space()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(60):
        chosen = space.suggest(study.ask())
        base = {
            "layers": "x",
            "data": {"input_path": "a", "target_path": "b"},
            "optimizer": {"momentum": 0.5, "beta1": 0.8},
            "loss": {},
        }
        config = parse_config({"neural_network": build_config(base, chosen)})
        assert config.optimizer.learning_rate == chosen["optimizer.learning_rate"]
        seen.add(config.optimizer.type)
    assert seen == {"Adam", "RMSprop", "SGD"}


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_fields_that_an_optimizer_lacks_are_not_sampled(optimizer: str) -> None:
    space = SearchSpace(
        (
            Dimension("optimizer.type", Categorical((optimizer, "SGD"))),
            Dimension("optimizer.momentum", Range(0.1, 0.9)),
            Dimension("optimizer.beta1", Range(0.8, 0.95)),
        )
    )
    trial = optuna.trial.FixedTrial(
        {"optimizer.type": optimizer, "optimizer.momentum": 0.5, "optimizer.beta1": 0.9}
    )
    chosen = space.suggest(trial)  # type: ignore[arg-type]
    fields = OPTIMIZERS[optimizer].model_fields
    assert ("optimizer.momentum" in chosen) == ("momentum" in fields)
    assert ("optimizer.beta1" in chosen) == ("beta1" in fields)


def test_conditional_dimension_follows_its_condition() -> None:
    space = load_study(find_study("demo")).space()
    for optimizer in ("Adam", "RMSprop", "SGD"):
        trial = optuna.trial.FixedTrial(
            {
                "optimizer.type": optimizer,
                f"optimizer.learning_rate[{optimizer}]": 0.005,
                "optimizer.momentum[SGD]": 0.9,
                "loss.function": "BCE",
            }
        )
        chosen = space.suggest(trial)  # type: ignore[arg-type]
        assert chosen["optimizer.learning_rate"] == 0.005
        assert ("optimizer.momentum" in chosen) == (optimizer == "SGD")
