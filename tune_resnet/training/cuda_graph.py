"""A training step recorded once as a CUDA graph and replayed: one launch in place of hundreds."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]

_DIRECT_STEPS = 3  # before recording: kernels are chosen, workspaces and optimizer state allocated
_WAITS = "called a synchronizing CUDA operation"  # how PyTorch's warning begins


class RecordedStep:
    """Calls a `step(images, labels)` for the first few batches, and from then on replays a recording of it on the GPU.

    It is given the same step each time, and keeps none: the step is a method of a run that owns the recording, and a
    recording that held it would be freed by the garbage collector only, at a time that may break another's recording.
    Whatever the step reads or writes besides its arguments must be tensors on the GPU that stay where they are, as
    weights, optimizer state and hyperparameters do: new values in them count, nothing else of a step may change.
    Batches of another shape than the first, as an epoch's last may have, are run directly. A step whose last direct run
    made the CPU wait for the GPU is never recorded: that would fail, and leave PyTorch's generator in a state of which
    nothing is known. Then, and where recording fails, a warning says why, and every step is run directly.

    What Python's own random numbers decide in a step is decided once, in the recording, and cannot be noticed: a
    network is to draw with PyTorch. All calls must be made on one stream, not the default one.
    """

    def __init__(self) -> None:
        self.shape: torch.Size | None = None
        self.direct_steps = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        """The step's result; after a replay, a tensor that the next replay overwrites."""
        if self.shape is None:
            self.shape = images.shape
        if images.shape != self.shape:
            return step(images, labels)
        if self.graph is None and self.direct_steps == _DIRECT_STEPS:
            self._record(step, images, labels)
        if self.graph is None:
            self.direct_steps += 1
            return self._watched(step, images, labels) if self.direct_steps == _DIRECT_STEPS else step(images, labels)
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
            self.direct_steps += 1  # past the one at which it would be recorded
            warnings.warn("training without a CUDA graph: a step waits for the GPU", stacklevel=2)
        return loss

    def _record(self, step: Step, images: Tensor, labels: Tensor) -> None:
        """Recording does not run the step, so it leaves the training as it was."""
        self.images, self.labels = images.clone(), labels.clone()
        try:
            graph = torch.cuda.CUDAGraph()
            with _no_collector(), torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self.loss = step(self.images, self.labels)
        except RuntimeError as error:
            warnings.warn(f"training without a CUDA graph: {error}", stacklevel=2)
            return
        self.graph = graph


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
