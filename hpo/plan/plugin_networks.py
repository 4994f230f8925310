"""Checks plug-ins' networks in a process of their own: the driver never imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from trainer.errors import NetworkError
from trainer.networks import Network, NetworkFacts, PluginNetwork, check_network
from trainer.networks.plugin import FACTS, REFUSED
from trainer.networks.spec import Shape

BUILD_TIMEOUT_S = 300  # the import of torch from a cold disk takes a minute


def facts_of(network: Network, text: str, input_shape: Shape) -> NetworkFacts:
    """Check a network for images of `input_shape`, (H, W, C).

    Args:
        network: as parsed.
        text: what its file holds.
        input_shape: (H, W, C).

    Raises:
        NetworkError: it cannot be built, or does not fit the images.
    """
    if not isinstance(network, PluginNetwork):
        return check_network(network, input_shape)
    network.check_installed()
    # In a process of its own: nothing but its code can tell, and that imports torch.
    shape = ",".join(map(str, input_shape))
    module = "trainer.networks.plugin_check"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", module, text, network.source, shape],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise NetworkError(
            f"{network.source}: its code has built no network in {BUILD_TIMEOUT_S} s"
        ) from None
    said = done.stderr.strip().splitlines() or ["no word"]
    if done.returncode:
        if said[-1].startswith(REFUSED):
            raise NetworkError(said[-1].removeprefix(REFUSED))
        raise NetworkError(f"{network.source}: its code ended its process ({said[-1]})")
    lines = [line for line in done.stdout.splitlines() if line.startswith(FACTS)]
    if not lines:
        raise NetworkError(f"{network.source}: its code ended its process ({said[-1]})")
    facts = json.loads(lines[-1].removeprefix(FACTS))
    shapes = {key: tuple(facts[key]) for key in ("input_shape", "output_shape")}
    return NetworkFacts(**{**facts, **shapes})
