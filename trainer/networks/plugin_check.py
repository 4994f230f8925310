"""`python -m trainer.networks.plugin_check JSON SOURCE H,W,C` builds a plug-in's network.

It prints the network's facts. A driver asks in a process of its own: it never imports torch, nor
a plug-in's code.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from trainer.errors import NetworkError, TrainerError
from trainer.log import escape_unprintable
from trainer.networks.plugin import FACTS, REFUSED, read_plugin_network
from trainer.networks.plugin_module import build_plugin


def main(argv: Sequence[str]) -> int:
    """Print the facts in one line; what is wrong goes to stderr, as one line."""
    escape_unprintable()
    text, source, shape = argv
    try:
        network = read_plugin_network(json.loads(text), source)
        if network is None:
            raise NetworkError(f"{source}: no network of a plug-in")
        _, facts = build_plugin(network, tuple(map(int, shape.split(","))))
    except TrainerError as error:
        sys.stderr.write(f"{REFUSED}{' '.join(str(error).splitlines())}\n")
        return error.exit_code
    sys.stdout.write(f"\n{FACTS}{json.dumps(dataclasses.asdict(facts))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
