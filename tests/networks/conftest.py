"""Keras is the oracle of these tests; its back end must be chosen before it is imported."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)
