"""A training step recorded once as a CUDA graph and replayed: one launch in place of hundreds."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tune_resnet._text import one_line
from tune_resnet.config.sections import TrainSpec
from tune_resnet.training.device import ran_out_of_memory, timed_kernels

Step = Callable[[Tensor, Tensor], Tensor]

RECORDED = "recorded as a CUDA graph"
_DIRECT_STEPS = 3  # before recording: kernels are chosen, workspaces and optimizer state allocated
_WAITS = "called a synchronizing CUDA operation"  # how PyTorch's warning begins

# What a recording of a training step has in it as constants; all else that a configuration says is in tensors, or
# outside of the step.
CONSTANTS = (
    "precision", "batch_size", "optimizer", "momentum", "momentum_at_peak", "decoupled_decay", "label_smoothing",
    "class_weights", "dropout",
)  # fmt: skip


def same_step(first: TrainSpec, second: TrainSpec) -> bool:
    """Whether a recording of a step of the first configuration is one of the second's."""
    return all(getattr(first, name) == getattr(second, name) for name in CONSTANTS)


def room_for_recording(spec: TrainSpec, device: torch.device) -> RecordedStep | None:
    """What runs the steps of a configuration on a GPU; None: the device is none."""
    never = "the momentum changes" if spec.momentum_at_peak is not None else ""
    return RecordedStep(never) if device.type == "cuda" else None


class RecordedStep:
    """Calls a `step(images, labels)` for the first few batches, and from then on replays a recording of it on the GPU.

    It is given the same step each time, and keeps none: the step is a method of a run that owns the recording, and a
    recording that held it would be freed by the garbage collector only, at a time that may break another's recording.
    Whatever the step reads or writes besides its arguments must be tensors on the GPU that stay where they are, as
    weights, optimizer state and hyperparameters do: new values in them count, nothing else of a step may change.
    Batches of another shape than the first, as an epoch's last may have, are run directly. A step whose last direct run
    made the CPU wait for the GPU is never recorded: that would fail, and leave PyTorch's generator in a state of which
    nothing is known. Then, and where recording fails, a warning and `how` say why, and every step is run directly.

    What Python's own random numbers decide in a step is decided once, in the recording, and cannot be noticed: a
    network is to draw with PyTorch. All calls must be made on one stream, not the default one.

    Args:
        never: why the step is not to be recorded at all, if it is not.
    """

    how: str  # the steps are run, in words; empty while that is open

    def __init__(self, never: str = "") -> None:
        self.how = never and _directly(never)
        self.shape: torch.Size | None = None
        self.direct_steps = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        """The step's result; after a replay, a tensor that the next replay overwrites."""
        if self.shape is None:
            self.shape = images.shape
        if images.shape != self.shape:
            return step(images, labels)
        if self.graph is None:
            with timed_kernels():
                if not self.how and self.direct_steps == _DIRECT_STEPS:
                    self._record(step, images, labels)
                if self.graph is None:
                    self.direct_steps += 1
                    is_last = not self.how and self.direct_steps == _DIRECT_STEPS
                    return self._watched(step, images, labels) if is_last else step(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.loss

    def _watched(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        """The last direct step before the recording, which is called off where it waits for the GPU."""
        if not images.is_cuda:
            return step(images, labels)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("warn")  # warns of itself as well, that it may overlook some
            caught.clear()
            try:
                loss = step(images, labels)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        waits = False
        for each in caught:
            if str(each.message).startswith(_WAITS):
                waits = True
            else:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        if waits:
            self._give_up("a step waits for the GPU")
        return loss

    def _record(self, step: Step, images: Tensor, labels: Tensor) -> None:
        """Recording does not run the step, so it leaves the training as it was."""
        self.images, self.labels = images.clone(), labels.clone()
        try:
            graph = torch.cuda.CUDAGraph()
            with _no_collector(), torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self.loss = step(self.images, self.labels)
        except RuntimeError as error:
            if ran_out_of_memory(error):
                raise  # there is none to go on with either
            self._give_up(one_line(error))
            return
        self.graph, self.how = graph, RECORDED

    def _give_up(self, reason: str) -> None:
        self.how = _directly(reason)
        warnings.warn(f"training without a CUDA graph: {reason}", stacklevel=3)


def _directly(reason: str) -> str:
    return f"run directly: {reason}"


@contextmanager
def _no_collector() -> Iterator[None]:
    """Within, nothing is freed by the garbage collector: another graph, say, which would break the recording."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
