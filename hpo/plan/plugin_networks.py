"""What a search knows of plug-ins' networks before it starts a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from trainer.errors import NetworkError
from trainer.networks import Network, NetworkFacts, PluginNetwork, check_network
from trainer.networks.plugin import REFUSED
from trainer.networks.spec import Shape


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
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, text, network.source, shape],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr.strip().splitlines() or ["no word"]
    if done.returncode:
        if said[-1].startswith(REFUSED):
            raise NetworkError(said[-1].removeprefix(REFUSED))
        raise NetworkError(f"{network.source}: its code ended its process ({said[-1]})")
    facts = json.loads(done.stdout.splitlines()[-1])
    shapes = {key: tuple(facts[key]) for key in ("input_shape", "output_shape")}
    return NetworkFacts(**{**facts, **shapes})
