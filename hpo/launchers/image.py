"""States the worker image's name and tag once; `python hpo/launchers/image.py` prints it."""

from __future__ import annotations

import sys

DEFAULT_IMAGE = "rml-optimize/rmldnn:0.1.0"

if __name__ == "__main__":
    sys.stdout.write(f"{DEFAULT_IMAGE}\n")
