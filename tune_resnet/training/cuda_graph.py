"""A training step recorded once as a CUDA graph and replayed: one launch in place of hundreds."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]

_DIRECT_STEPS = 3  # before recording: kernels are chosen, workspaces and optimizer state allocated


class RecordedStep:
    """Calls a `step(images, labels)` for the first few batches, and from then on replays a recording of it on the GPU.

    It is given the same step each time, and keeps none: the step is a method of a run that owns the recording, and a
    recording that held it would be freed by the garbage collector only, at a time that may break another's recording.
    Whatever the step reads or writes besides its arguments must be tensors on the GPU that stay where they are, as
    weights, optimizer state and hyperparameters do: new values in them count, nothing else of a step may change.
    Batches of another shape than the first, as an epoch's last may have, are run directly. Where recording fails, a
    warning says why, and every step is run directly. All calls must be made on one stream, not the default one.
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
            return step(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.loss

    def _record(self, step: Step, images: Tensor, labels: Tensor) -> None:
        """Recording does not run the step, so it leaves the training as it was."""
        self.images, self.labels = images.clone(), labels.clone()
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self.loss = step(self.images, self.labels)
        except RuntimeError as error:
            warnings.warn(f"training without a CUDA graph: {error}", stacklevel=2)
            return
        self.graph = graph
