"""Stands in for `apptainer` and `singularity`: the documented command line, a private root.

`apptainer exec OPTIONS IMAGE COMMAND…` with IMAGE a folder that holds a root file system. Takes
the options that are documented for both programs and that isolate a worker; an unknown one, or
one of these left out, fails. The command gets a mount namespace with a read-only root, the binds
and a /tmp in --workdir, a network namespace, no capabilities, and of the environment only what
the prefixed variables say. The starter stays, passes SIGTERM on and ends as the command did.
Standard library only.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

FLAGS = {"--containall", "--no-home", "--no-privs", "--net", "--nv"}
VALUED = {"--bind", "--network", "--pwd", "--workdir"}
REQUIRED = {"--containall", "--no-home", "--no-privs", "--net"}
SYSTEM = ("usr", "bin", "lib", "lib64", "etc", "opt")
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38


def fatal(text):
    sys.stderr.write(f"FATAL:   {text}\n")
    sys.exit(255)


def parse(arguments):
    """Return the options, image and command, as the real program's parser would."""
    options = {"--bind": []}
    rest = list(arguments)
    if not rest or rest.pop(0) != "exec":
        fatal("expected exec")
    while rest and rest[0].startswith("-"):
        name = rest.pop(0)
        if name in FLAGS:
            options[name] = True
        elif name in VALUED and rest:
            value = rest.pop(0)
            options[name] = options["--bind"] + value.split(",") if name == "--bind" else value
        else:
            sys.stderr.write(f'Error for command "exec": unknown flag: {name}\n')
            sys.exit(1)
    if missing := REQUIRED - set(options):
        fatal(f"not isolated: {sorted(missing)} left out")
    if options.get("--network") != "none":
        fatal("network requires root")
    return options, rest[0], rest[1:]


def environment():
    """Return what --containall leaves of the environment."""
    prefix = f"{Path(sys.argv[0]).name.upper()}ENV_"
    given = {
        name.removeprefix(prefix): value
        for name, value in os.environ.items()
        if name.startswith(prefix)
    }
    if "HOME" in given:
        fatal(f"overriding HOME with {prefix}HOME is not permitted")
    return {"PATH": "/usr/bin", "HOME": "/root", **given}


def mount(*arguments):
    subprocess.run(["mount", *map(str, arguments)], check=True)


def bind(source, target, mode):
    if not Path(source).exists():
        fatal(f"mount source {source} doesn't exist")
    mount("--bind", source, target)
    if mode == "ro":
        mount("-o", "remount,bind,ro", target)


def enter(plan):
    """Build the root in this process's own mount namespace, and become the command."""
    options, image, command = plan
    scratch = Path(options["--workdir"])
    root = scratch / "session"
    root.mkdir()
    mount("-t", "tmpfs", "tmpfs", root)
    for name in SYSTEM:
        entry = Path(image, name)
        if entry.is_symlink():
            (root / name).symlink_to(entry.readlink())
        elif entry.is_dir():
            (root / name).mkdir()
            bind(entry, root / name, "ro")
    (scratch / "tmp").mkdir()
    binds = [(scratch / "tmp", "/tmp", "rw"), ("/proc", "/proc", "rw"), ("/sys", "/sys", "ro")]
    binds += [tuple(text.split(":")) for text in options["--bind"]]
    (root / "dev").mkdir()
    for name in ("null", "zero", "urandom"):
        (root / "dev" / name).touch()
        bind(f"/dev/{name}", root / "dev" / name, "rw")
    for source, target, mode in binds:
        inside = root / target.removeprefix("/")
        inside.mkdir(parents=True)
        bind(source, inside, mode)
    mount("-o", "remount,bind,ro", root)
    libc = ctypes.CDLL(None)
    os.chroot(root)
    os.chdir(options["--pwd"])
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    given = json.loads(os.environ["FAKE_ENVIRONMENT"])
    try:
        os.execvpe(command[0], command, given)
    except FileNotFoundError:
        fatal(f'"{command[0]}": executable file not found in $PATH')


def start():
    plan = parse(sys.argv[1:])
    if not Path(plan[1]).is_dir():
        fatal(f"could not open image {plan[1]}")
    unshare = ["unshare", "--mount", "--net", "--propagation", "private"]
    if os.geteuid() != 0:
        unshare.append("--map-root-user")
    child = subprocess.Popen(
        [*unshare, sys.executable, "-I", "-S", __file__, "--enter", json.dumps(plan)],
        env=os.environ | {"FAKE_ENVIRONMENT": json.dumps(environment())},
    )
    signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
    code = child.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if code != -signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


if sys.argv[1:2] == ["--enter"]:
    enter(json.loads(sys.argv[2]))
else:
    start()
