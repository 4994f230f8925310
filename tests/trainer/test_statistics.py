"""Statistics computed anew are those of the inputs, with the weights as they are."""

from __future__ import annotations

import numpy as np
import torch
from worker import Worker

from trainer.networks import parse_network
from trainer.networks.module import build_module
from trainer.statistics import recompute_statistics

SHAPE = (16, 16, 2)


def test_worker_evaluates_and_keeps_them_and_trains_as_without(worker: Worker) -> None:
    changes = {"num_epochs": 3, "data__batch_size": 2, "checkpoints__save": "kept"}
    plain, precise = (worker(precise_bn=n, **changes).succeeded() for n in (0, 4))
    assert precise.losses == plain.losses
    assert precise.accuracies != plain.accuracies
    again = worker(
        num_epochs=1, data__input_path=None, data__target_path=None,
        checkpoints__load="kept/model_checkpoint_3.pt",
    ).succeeded()  # fmt: skip
    assert again.accuracies == precise.accuracies[-1:]


def network(*layers):
    image = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, *SHAPE]}}
    return build_module(parse_network([image, *layers], "net"), SHAPE)


def test_first_layers_statistics_are_the_inputs():
    module = network(
        {"class_name": "BatchNormalization", "config": {"name": "bn"}},
        {"class_name": "Conv2D", "config": {"name": "c", "filters": 1, "kernel_size": 1}},
    )
    before = {name: p.clone() for name, p in module.named_parameters()}
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 2, (n, 2, 16, 16)).astype(np.float32) + n for n in (4, 4, 1)]
    recompute_statistics(module, [torch.from_numpy(batch) for batch in batches])
    everything = np.concatenate(batches).astype(np.float64)
    state = module.state_dict()
    np.testing.assert_allclose(state["bn.running_mean"], everything.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(state["bn.running_var"], everything.var((0, 2, 3)), rtol=1e-5)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_frozen_layer_keeps_its_statistics():
    module = network(
        {"class_name": "BatchNormalization", "config": {"name": "bn", "trainable": False}}
    )
    before = module.state_dict()["bn.running_mean"].clone()
    recompute_statistics(module, [torch.rand(4, 2, 16, 16) + 5])
    assert torch.equal(module.state_dict()["bn.running_mean"], before)
