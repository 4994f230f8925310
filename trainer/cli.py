"""The worker's command line: `rmldnn --config=config.json`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from trainer import __version__
from trainer.compute.launch import Launch, find_launch
from trainer.config import EXTENSIONS, PLUGIN_NETWORK, load_config
from trainer.errors import (
    ConfigError,
    NetworkError,
    ReportedError,
    StopRequestedError,
    TrainerError,
)
from trainer.keypath import parse_setting
from trainer.log import Log, escape_unprintable
from trainer.plugins import NETWORKS_GROUP, plugin_names
from trainer.stopping import stop_on_sigterm

INTERRUPTED = 130
# What `--capabilities` says of a worker that can stay, see trainer.commands.serve.
SERVE = "--serve"
TARGETS = "--targets"  # of --predict, which earlier releases lack
ECHO_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker and return its exit code (see `trainer.errors`)."""
    escape_unprintable()
    argv = sys.argv[1:] if argv is None else argv
    return _guarded(argv, _serve if list(argv) == [SERVE] else _carry_out)


def _serve(argv: Sequence[str], launch: Launch) -> None:
    from trainer.commands.serve import serve

    serve(partial(_guarded, work=_carry_out))


def _carry_out(argv: Sequence[str], launch: Launch) -> None:
    _dispatch(_parse(argv), launch, Log(silent=launch.rank > 0))


def _guarded(argv: Sequence[str], work: Callable[[Sequence[str], Launch], None]) -> int:
    """Do the work; whatever ends it becomes one line and an exit code."""
    stop_on_sigterm()
    launch = Launch()
    try:
        launch = find_launch(os.environ)
        work(argv, launch)
    except ReportedError as error:
        return error.run_exit_code
    except TrainerError as error:
        _report(str(error), launch)
        return error.exit_code
    except StopRequestedError as error:
        _report(str(error), launch, kind="")
        return error.exit_code
    except KeyboardInterrupt:
        _report("interrupted", launch)
        return INTERRUPTED
    except BrokenPipeError:  # who read our log has gone, and so has the reader of an error
        _forget_output()
        return TrainerError.exit_code
    except OSError as error:  # a full disk, a folder that is gone: no fault of config or data
        _report(f"{error.filename}: {error.strerror}" if error.filename else str(error), launch)
        _forget_output()
        return TrainerError.exit_code
    return 0


def _report(message: str, launch: Launch, kind: str = "error: ") -> None:
    if launch.rank > 0:
        # The first process most likely says the same now, and then the launcher ends us.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(ECHO_S)
    for line in message.splitlines():
        sys.stderr.write(f"rmldnn: {kind}{line}\n")
    sys.stderr.flush()


def _forget_output() -> None:
    # What could not be written waits in the buffer: Python would try again at exit, and complain.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="rmldnn", description="Train, evaluate or run an image-segmentation network."
    )
    parser.add_argument("--config", metavar="FILE", help="the run's config.json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a config field by its dotted path, e.g. data.batch_size=8",
    )
    parser.add_argument("--app", default="seg", help="only 'seg' (segmentation)")
    parser.add_argument(
        "--write-network", metavar="NAME", help="write a built-in network as Keras JSON"
    )
    parser.add_argument("--input", metavar="H,W,C", help="with --write-network: the input's shape")
    parser.add_argument(
        "--classes", type=int, default=1, help="with --write-network: number of classes"
    )
    parser.add_argument(
        "--export",
        metavar="FILE",
        help="write the config's network and weights: .onnx, .weights.h5 or .h5",
    )
    parser.add_argument(
        "--predict", metavar="MODEL_DIR", help="segment images with a model such as best_model/"
    )
    parser.add_argument("--images", metavar="DIR|FILE", help="with --predict: the images")
    parser.add_argument(
        "--targets", metavar="DIR", help="with --predict: masks, to score each image with"
    )
    parser.add_argument("--out", metavar="DIR", help="with --predict: HDF5, masks and overlays")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw a run's loss and accuracy; FILE is its outfile"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="with --write-network or --plot: the file"
    )
    parser.add_argument("--capabilities", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"rmldnn {__version__}")
    return parser.parse_args(_join_blank(argv))


def _join_blank(argv: Sequence[str]) -> list[str]:
    """Take `--config= file` for `--config=file`, as the tutorials write it."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] == "--config=":
            joined[-1] += argument
        else:
            joined.append(argument)
    return joined


def _dispatch(options: argparse.Namespace, launch: Launch, log: Log) -> None:
    alone = options.capabilities or options.write_network or options.export or options.plot
    if launch.rank > 0 and alone:
        return  # the first process does what is no work for many
    if options.capabilities:
        known = {
            "engine": f"rml-optimize rmldnn {__version__}",
            # A driver looks for the plug-ins of its networks among them.
            "capabilities": [
                *EXTENSIONS,
                SERVE,
                TARGETS,
                *(f"{PLUGIN_NETWORK}{name}" for name in plugin_names(NETWORKS_GROUP)),
            ],
        }
        sys.stdout.write(json.dumps(known) + "\n")
    elif options.write_network:
        _write_network(options)
    elif options.plot:
        from trainer.commands.plot import plot_run

        outfile = Path(options.plot)
        picture = Path(options.output or outfile.with_suffix(".png"))
        plot_run(outfile, picture)
        sys.stdout.write(f"{picture}\n")
    elif options.predict:
        _predict(options, launch, log)
    elif options.app != "seg":
        raise ConfigError(f"--app={options.app}: only 'seg' (segmentation) is supported")
    elif not options.config:
        raise ConfigError("--config is missing; use rmldnn --config=config.json")
    else:
        path = Path(options.config)
        config = load_config(path, dict(parse_setting(text) for text in options.set))
        # Imported here: torch takes over a second, which no mistake in the config should cost.
        from trainer.compute.memory import memory_errors_named

        if options.export:
            from trainer.commands.export import export

            with memory_errors_named(config):
                export(config, path.parent, Path(options.export), log)
        else:
            from trainer.commands.run import run
            from trainer.compute.parallel import World

            with World(launch) as world, memory_errors_named(config):
                run(config, path.parent, log, world)
        log("All done (return value = 0).")


def _predict(options: argparse.Namespace, launch: Launch, log: Log) -> None:
    if not options.images or not options.out:
        raise ConfigError("--predict needs --images DIR (or one image) and --out DIR")
    from trainer.commands.predict import predict
    from trainer.compute.parallel import World

    targets = Path(options.targets) if options.targets else None
    with World(launch) as world:
        predict(
            Path(options.predict), Path(options.images), Path(options.out), log, world, targets
        )
    log("All done (return value = 0).")


def _write_network(options: argparse.Namespace) -> None:
    from trainer.networks import is_builtin, network_json
    from trainer.rundir import write_atomic

    if not options.input or not options.output:
        raise ConfigError("--write-network needs --input H,W,C and -o FILE")
    try:
        height, width, channels = (int(text) for text in options.input.split(","))
    except ValueError:
        raise ConfigError(
            f"--input: expected H,W,C such as 256,256,3, not {options.input!r}"
        ) from None
    network = network_json(options.write_network, (height, width, channels), options.classes)
    if is_builtin(options.write_network):
        _refuse_size(options, network, (height, width, channels))
    write_atomic(Path(options.output), json.dumps(network, indent=1))
    sys.stdout.write(f"{options.output}: {options.write_network}\n")
    if not is_builtin(options.write_network):
        sys.stdout.write(
            "It names the plug-in, for rmldnn: a network that is written in PyTorch has no Keras "
            "JSON.\n"
        )


def _refuse_size(
    options: argparse.Namespace, network: dict[str, object], shape: tuple[int, int, int]
) -> None:
    """Refuse a size that the network cannot take, before its file is written."""
    from trainer.networks import check_network, parse_network

    try:
        check_network(parse_network(network, options.write_network), shape)
    except NetworkError as error:
        raise NetworkError(f"--input {options.input}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
