"""Captures a training step as a CUDA graph: one launch instead of a thousand.

A small network's kernels take less time than Python takes to queue them. A graph queues all of a
step at once, on the same tensors each time: so each step's samples are copied into the tensors
that the graph was captured with, and whatever changes from step to step lives on the device (the
learning rate, counts of steps, draws of augmentation).
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.compute.memory import is_shortage
from trainer.errors import first_line
from trainer.loading.augment import DrawnAugmentation
from trainer.loading.batches import BatchSelection
from trainer.optimizers import needs_closure
from trainer.training.step import TrainingStep

Replay = Callable[[], Tensor]

# The first steps of a size make what a graph must find: the optimizer's state, cuDNN's plans.
WARM_UP_STEPS = 3


class Recorder(Protocol):
    """What captures a step; on a CPU, for tests, one that plays back operators."""

    def watched(self, step: Callable[[], Tensor]) -> tuple[Tensor, str | None]:
        """Carry a step out; return what it gives, and why it cannot be captured, if so."""
        ...

    def record(self, step: Callable[[], Tensor]) -> Replay:
        """Capture a step without carrying it out; return what carries it out."""
        ...


@dataclass
class _Size:
    """Batches of one size: those seen so far, then the graph and the tensors it reads."""

    num_seen: int = 0
    is_eager: bool = False  # for good: a capture has failed
    picked: BatchSelection | None = None
    replay: Replay | None = None


class CapturedSteps:
    """Carries out steps by a graph for each size of batch; eagerly where that is not possible.

    The first steps of each size are eager ones, of the training itself.

    Args:
        step: the same step, carried out eagerly.
        recorder: captures it.
        log: told, once, that steps are captured, or why not.
    """

    def __init__(self, step: TrainingStep, recorder: Recorder, log: Callable[[str], None]) -> None:
        self._step = step
        self._recorder = recorder
        self._log = log
        self._sizes: dict[tuple[torch.Size, ...], _Size] = {}
        self._is_off = False

    def __call__(self, picked: BatchSelection) -> Tensor:
        """Return loss and norm of the gradient, on the device; to be copied before the next."""
        if self._step.fitter.piece is not None and not self._is_off:
            self._give_up("batches are computed in pieces")
        shapes = tuple(values.shape for values in picked.tensors())
        size = self._sizes.setdefault(shapes, _Size())
        if self._is_off or size.is_eager:
            return self._step(picked)
        if size.replay is None:
            size.num_seen += 1
            if size.num_seen < WARM_UP_STEPS:
                return self._step(picked)
            if size.num_seen == WARM_UP_STEPS:
                return self._watched(picked)
            self._capture(size, picked)
        if size.replay is None or size.picked is None:
            return self._step(picked)
        for held, given in zip(size.picked.tensors(), picked.tensors(), strict=True):
            held.copy_(given)
        try:
            return size.replay()
        except RuntimeError as error:  # the first launch takes memory of its own
            if not is_shortage(error):
                raise
        self.release()
        return self._step(picked)

    def release(self) -> bool:
        """Give back the memory of the graphs, for good; return whether there was any."""
        had_graphs = any(size.replay is not None for size in self._sizes.values())
        if had_graphs:
            self._give_up("their memory is needed")
        return had_graphs

    def _watched(self, picked: BatchSelection) -> Tensor:
        figures, reason = self._recorder.watched(lambda: self._step(picked))
        if reason is not None:
            self._give_up(reason)
        return figures

    def _capture(self, size: _Size, picked: BatchSelection) -> None:
        size.picked = held = _copied(picked)
        try:
            size.replay = self._recorder.record(lambda: self._step.whole(held))
        except Exception as error:  # noqa: BLE001  # a true one shows in the eager step, too
            reason = first_line(error)
        else:
            self._log(f"Training step: captured as a CUDA graph (batches of {len(picked)})")
            return
        # Short of memory, say: what is captured by now stays. Only here: in the except clause the
        # error's traceback held what the step had allocated.
        self._log(f"Training step: not as a CUDA graph for batches of {len(picked)}: {reason}")
        size.is_eager, size.picked = True, None
        self._free()

    def _give_up(self, reason: str) -> None:
        self._log(f"Training step: not as a CUDA graph from here on: {reason}")
        self._is_off = True
        self._sizes.clear()
        self._free()

    def _free(self) -> None:
        self._step.forget_gradients()  # they lie in the graph's memory
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def recorder_on(device: torch.device) -> Recorder | None:
    """Return what captures steps on a device; None where steps are eager."""
    return CudaRecorder() if device.type == "cuda" else None


def captured(
    step: TrainingStep, recorder: Recorder | None, log: Callable[[str], None], *, wanted: bool
) -> TrainingStep | CapturedSteps:
    """Return what carries out the steps: captured where that is possible.

    Args:
        step: the eager one.
        recorder: of its device.
        log: told why steps are not captured though the device could.
        wanted: `cuda_graph` of the config.
    """
    if recorder is None:
        return step
    reason = _why_not(step, wanted)
    if reason is not None:
        log(f"Training step: not as a CUDA graph: {reason}")
        return step
    steps = CapturedSteps(step, recorder, log)
    step.fitter.free = steps.release
    return steps


def _why_not(step: TrainingStep, wanted: bool) -> str | None:
    if not wanted:
        return "cuda_graph is false"
    if needs_closure(step.optimizer):
        return "the optimizer computes each step several times"
    if step.world.size > 1:
        return "several processes add their gradients"
    return None


class CudaRecorder:
    """Captures by torch's CUDA graphs; all of one memory, as they never run at the same time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def watched(self, step: Callable[[], Tensor]) -> tuple[Tensor, str | None]:
        """Carry a step out; a capture fails where the host waits for the device."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")  # first: torch warns of the mode, too
            with _waits_warned_of():
                figures = step()
        waits = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
        if not waits:
            return figures, None
        return figures, f"it waits for the GPU ({waits[0].filename}:{waits[0].lineno})"

    def record(self, step: Callable[[], Tensor]) -> Replay:
        """Capture a step on the present stream, which must not be the default one."""
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            # What other threads do meanwhile (a checkpoint is waited for) is no part of it.
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=torch.cuda.current_stream(),
                capture_error_mode="thread_local",
            ):
                figures = step()
        except BaseException:
            self._end_failed_capture()
            raise

        def replay() -> Tensor:
            graph.replay()
            return figures

        return replay

    def _end_failed_capture(self) -> None:
        """Tell who still holds a capture that CUDA has ended for going on.

        The allocator would keep all that is freed from then on. The generator of random numbers,
        until a capture ends well, would repeat dropout's masks in eager steps.
        """
        here = torch.cuda.current_stream()  # also where even this fails
        with contextlib.suppress(RuntimeError, AttributeError):  # no public function
            torch._C._cuda_endAllocateToPool(here.device_index, self._pool)
        with (
            torch.cuda.stream(here),
            contextlib.suppress(RuntimeError),
            torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"),
        ):
            torch.zeros(1, device="cuda")


@contextlib.contextmanager
def _waits_warned_of() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _copied(picked: BatchSelection) -> BatchSelection:
    """Return the same on tensors of its own, which stay."""

    def copy(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.clone()

    drawn = (copy(getattr(picked.drawn, each.name)) for each in fields(DrawnAugmentation))
    return replace(
        picked,
        inputs=picked.inputs.clone(),
        targets=copy(picked.targets),
        drawn=DrawnAugmentation(*drawn),  # type: ignore[arg-type]  # flips there are always
    )
