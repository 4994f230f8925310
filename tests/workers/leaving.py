"""Our worker, which says as it leaves what threads of gloo it leaves behind."""

import sys
from pathlib import Path

from trainer.cli import main

code = main()
names = [path.joinpath("comm").read_text() for path in Path("/proc/self/task").iterdir()]
sys.stderr.write(f"left: {sum('gloo' in name for name in names)} threads\n")
sys.exit(code)
