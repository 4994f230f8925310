"""A config is accepted as the contract writes it, or refused with the key and what is expected."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
from every_key import FULL, leaves
from hypothesis import given
from hypothesis import strategies as st
from worker import base_config, write_json

from trainer.config import EXTENSIONS, LOSSES, NeuralNetwork, load_config, parse_config
from trainer.errors import ConfigError
from trainer.keypath import get_path, set_path

OPTIMIZER_KEYS = {
    "SGD": ("momentum", "weight_decay", "dampening", "nesterov"),
    "LARS": ("momentum", "weight_decay", "dampening", "nesterov", "eta"),
    "Adagrad": ("lr_decay", "weight_decay"),
    "Adam": ("beta1", "beta2", "weight_decay", "eps", "amsgrad"),
    "AdamW": ("beta1", "beta2", "weight_decay", "eps", "amsgrad"),
    "LAMB": ("beta1", "beta2", "weight_decay", "eps", "amsgrad"),
    "RMSprop": ("momentum", "alpha", "eps", "centered", "weight_decay"),
    "Hessian": ("max_iterations", "max_func_eval", "absolute_tolerance", "relative_tolerance"),
}
SCHEDULERS = (
    {"type": "Step", "gamma": 0.1, "step_size": 3},
    {"type": "MultiStep", "gamma": 0.1, "milestones": [2, 4]},
    {"type": "Exponential", "gamma": 0.9},
    {"type": "Warmup", "num_epochs": 5, "start_factor": 0.2},
)


def full(**changes: object) -> dict:
    config = copy.deepcopy(FULL)
    for key, value in changes.items():
        set_path(config, key.replace("__", "."), value)
    return {"neural_network": config}


def refused(**changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(full(**changes), "config.json")
    return str(caught.value)


def test_every_key_of_the_contract_is_accepted_and_kept() -> None:
    config = parse_config(full())
    for path, value in leaves(FULL):
        expected = "Adam" if path == "optimizer.type" else value
        assert get_path(config.model_dump(mode="json"), path) == expected, path


def test_full_example_leaves_no_key_out() -> None:
    data_keys = set(NeuralNetwork.model_fields["data"].annotation.model_fields)
    assert set(FULL) == set(NeuralNetwork.model_fields)
    assert data_keys - set(FULL["data"]) == {
        "mask_threshold",  # excludes mask_values
        "slicers",  # are not for images
        "hdf5_outfile",
        "training_tag",  # are for labels
        "testing_tag",
        "test_tag",
    }
    parsed = parse_config(full()).model_dump()
    assert all(get_path(parsed, key, default="absent") != "absent" for key in EXTENSIONS)


def test_every_key_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/config.md").read_text()
    keys = [name for path, _ in leaves(FULL) for name in re.sub(r"\[.*?\]", "", path).split(".")]
    assert [key for key in keys if not re.search(rf"[`.{{\" ]{key}[`.:\"]", text)] == []


def test_defaults_are_those_of_the_contract() -> None:
    config = parse_config(
        {"neural_network": {"layers": "l.json", "data": {"test_input_path": "a"}}}
    )
    assert (config.num_epochs, config.outfile, config.optimizer.type) == (1, None, "SGD")
    assert (config.data.batch_size, config.data.test_batch_size) == (64, 64)
    assert (config.optimizer.learning_rate, config.checkpoints.interval) == (0.01, 1)


@pytest.mark.parametrize(("name", "keys"), OPTIMIZER_KEYS.items())
@pytest.mark.parametrize("spell", [str.lower, str.upper, str])
def test_optimizer_takes_its_keys_in_any_spelling_of_its_name(name, keys, spell) -> None:
    section = {"type": spell(name), "learning_rate": 0.1}
    config = parse_config(full(optimizer=section))
    assert config.optimizer.type == name
    assert set(type(config.optimizer).model_fields) == {
        *keys, "type", "learning_rate", "lr_scheduler"
    }  # fmt: skip


@pytest.mark.parametrize("section", SCHEDULERS, ids=lambda section: section["type"])
def test_scheduler_is_accepted_in_any_case(section: dict) -> None:
    lowered = section | {"type": section["type"].lower(), "verbose": False}
    assert (
        parse_config(full(optimizer__lr_scheduler=lowered)).optimizer.lr_scheduler.type
        == (section["type"])
    )


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_accepted_in_any_case(name: str) -> None:
    assert parse_config(full(loss={"function": name.lower()})).loss.function == name


@pytest.mark.parametrize(
    ("changes", "key", "nearest"),
    [
        ({"num_epoch": 3}, "num_epoch", "num_epochs"),
        ({"data__bach_size": 3}, "data.bach_size", "batch_size"),
        ({"optimizer__momentum": 0.9}, "optimizer.momentum", None),  # Adam has none
        ({"optimizer__lr_scheduler__gama": 3}, "optimizer.lr_scheduler.gama", "gamma"),
        ({"loss__functon": "Dice"}, "loss.functon", "function"),
        ({"checkpoints__safe": "x"}, "checkpoints.safe", "save"),
        ({"data__transforms": [{"resise": [3, 3]}]}, "data.transforms[0].resise", "resize"),
    ],
)
def test_unknown_key_is_named_with_its_path_and_the_nearest(changes, key, nearest) -> None:
    message = refused(**changes)
    assert message.startswith(f"config.json: {key}: unknown key; ")
    assert f"did you mean {nearest!r}?" in message if nearest else "Known: " in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer__type": "adamm"}, ("optimizer: unknown name 'adamm'", "'Adam'")),
        ({"loss__function": "dise"}, ("loss.function: unknown name 'dise'", "'Dice'")),
        ({"optimizer__lr_scheduler": {"type": "steps"}}, ("optimizer.lr_scheduler", "'Step'")),
        ({"optimizer__lr_scheduler": {"gamma": 0.1}}, ("expected a 'type'", "Exponential")),
        ({"data__target_type": "hdf5"}, ("data: inputs are images and targets hdf5",)),
        ({"data": {"type": "labels", "input_path": "a"}}, ("set input_type",)),
        ({"data__target_type": "labels"}, ("target_type labels takes no target_path",)),
        ({"data__slicers": [{"sizes": [4, 4]}]}, ("slicers are for inputs and targets of type",)),
        ({"data__transforms": [{}]}, ("data.transforms[0]: expected exactly one transform",)),
        (
            {"data__transforms": [{"resize": [256]}]},
            ("data.transforms[0].resize: expected two positive integers [H, W], received [256]",),
        ),
        ({"data__transforms": [{"resize": [0, 4]}]}, ("data.transforms[0].resize[0]", "0")),
        ({"data__transforms": [{"resize": [32, 10**9]}]}, ("resize[1]", "16384")),
        ({"data__transforms": {"resize": [2, 2]}}, ("data.transforms: expected a list",)),
        ({"num_epochs": "3"}, ("num_epochs: expected an integer, received '3'",)),
        ({"num_epochs": True}, ("num_epochs: expected an integer, received True",)),
        ({"num_epochs": 0}, ("num_epochs: input should be greater than 0, received 0",)),
        ({"num_epochs": 1.5}, ("num_epochs: expected an integer, received 1.5",)),
        ({"data__batch_size": None}, ("data.batch_size: expected an integer, received None",)),
        ({"data__preload": 1}, ("data.preload: expected true or false, received 1",)),
        ({"data": 3}, ("data: expected an object, received 3",)),
        ({"optimizer": "adam"}, ("optimizer: expected an object, received 'adam'",)),
        ({"optimizer__learning_rate": -1}, ("optimizer.learning_rate", "received -1")),
        ({"optimizer__learning_rate": float("nan")}, ("optimizer.learning_rate",)),
        ({"optimizer__beta1": 1.0}, ("optimizer.beta1", "less than 1")),
        ({"loss__weight": [-1, 2]}, ("loss.weight", "per class")),
        ({"loss__weight": "inverse"}, ("loss.weight", "inverse_frequency^0.35")),
        ({"layers": ""}, ("layers: expected the name of a network file",)),
        ({"seed": -1}, ("seed: input should be greater than or equal to 0",)),
        ({"seed": 2**64}, ("seed: input should be less than",)),
        ({"precision": "fp16"}, ("precision", "'auto', 'fp32' or 'bf16'", "'fp16'")),
        ({"checkpoints__keep": "last"}, ("checkpoints.keep", "'last'")),
        ({"data__mask_values": [0, 0]}, ("data.mask_values: expected two or more distinct",)),
        ({"data__mask_threshold": 9}, ("data: mask_values and mask_threshold exclude",)),
        ({"data__target_path": None}, ("data: input_path needs a target_path",)),
    ],
)
def test_mistake_is_named_with_path_and_expectation(changes: dict, words: tuple[str, ...]) -> None:
    message = refused(**changes)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_nesterov_without_momentum_is_refused() -> None:
    message = refused(optimizer={"type": "sgd", "nesterov": True})
    assert (
        message == "config.json: optimizer: nesterov needs a momentum above 0 and a dampening of 0"
    )


def test_training_without_a_loss_is_refused() -> None:
    config = full()
    del config["neural_network"]["loss"]
    with pytest.raises(ConfigError, match=r"training needs loss\.function, one of NLL, BCE"):
        parse_config(config)


def test_config_without_any_input_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nothing to do: set data\.input_path"):
        parse_config({"neural_network": {"layers": "l.json", "data": {}}})


def test_all_mistakes_are_reported_at_once() -> None:
    message = refused(num_epochs=0, data__batch_size="x", loss__function="dise")
    assert [line.split(": ")[1] for line in message.splitlines()] == [
        "num_epochs", "data.batch_size", "loss.function"
    ]  # fmt: skip


@pytest.mark.parametrize("obj", [None, 3, [], {}, {"neural_net": {}}, {"neural_network": 3}])
def test_other_objects_are_refused(obj: object) -> None:
    with pytest.raises(ConfigError):
        parse_config(obj)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", 'one object "neural_network"'),
    ],
)
def test_file_that_is_no_config_is_refused_by_name(tmp_path: Path, content, word) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=word) as caught:
        load_config(path, {"num_epochs": 2})
    assert str(path) in str(caught.value)


def test_missing_file_and_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=reason) as caught:
            load_config(path)
        assert str(path) in str(caught.value)


def test_settings_change_fields_before_the_check(tmp_path: Path) -> None:
    path = write_json(tmp_path / "config.json", base_config(tmp_path))
    config = load_config(path, {"data.transforms[0].resize": [8, 9], "loss.function": "bce"})
    assert config.data.transforms[0].resize == (8, 9)
    assert config.loss.function == "BCE"
    with pytest.raises(ConfigError, match=r"data\.transforms\[3\].*1 entries"):
        load_config(path, {"data.transforms[3].resize": [8, 9]})


def test_config_survives_its_own_dump() -> None:
    config = parse_config(full())
    dumped = json.loads(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    assert parse_config({"neural_network": dumped}) == config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
KEYS = [path for path, _ in leaves(FULL)]
SECTIONS = [
    "data",
    "optimizer",
    "optimizer.lr_scheduler",
    "loss",
    "checkpoints",
    "data.transforms",
]


@given(
    st.lists(
        st.tuples(st.sampled_from([*KEYS, *SECTIONS, "data.transforms[0]", "data.extra"]), JSON),
        min_size=1,
        max_size=3,
    )
)
def test_mutated_config_parses_or_is_refused_and_nothing_else(changes) -> None:
    config = copy.deepcopy(FULL)
    for path, value in changes:
        try:
            set_path(config, path, value)
        except ConfigError:
            continue  # an earlier change has replaced the section
    try:
        parse_config({"neural_network": config}, "c.json")
    except ConfigError as error:
        assert all(line.startswith("c.json: ") for line in str(error).split("\nc.json")[:1])
        assert "pydantic" not in str(error)
