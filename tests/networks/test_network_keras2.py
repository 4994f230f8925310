"""Networks and weights that the real Keras 2 wrote (see make_keras2_fixtures.py)."""

from pathlib import Path

import numpy as np
import pytest
from keras_oracle import TOLERANCE, relative_error, to_first, to_last

from trainer.networks import check_network, load_network
from trainer.networks.module import build_module
from trainer.networks.weights import load_weights

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("weights", [".h5", "_only.h5", ".keras", ".weights.h5"])
@pytest.mark.parametrize("name", ["windows", "nested", "sequential", "classifier"])
def test_keras2_network_and_weights_give_keras2s_output(name, weights):
    recorded = np.load(FIXTURES / f"{name}.npz")
    x, y = recorded["x"], recorded["y"]
    graph = load_network(FIXTURES / f"{name}.json")
    facts = check_network(graph, x.shape[1:])
    assert [facts.num_trainable, facts.num_non_trainable] == recorded["counts"].tolist()
    module = build_module(graph, x.shape[1:]).eval()
    lines = []
    report = load_weights(module, graph, FIXTURES / f"{name}{weights}", lines.append)
    assert (report.num_skipped, report.num_missing) == (0, 0), lines
    assert y.std() > 1e-3
    assert relative_error(to_last(module(to_first(x))), y) <= TOLERANCE


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_network_can_be_read_from_a_whole_model(suffix):
    graph = load_network(FIXTURES / f"nested{suffix}")
    assert graph.nodes == load_network(FIXTURES / "nested.json").nodes
