"""`python -m tune_resnet.search`, but with trainings that break where faults.json says: what test_faults.py runs.

The file that FAULTS names holds a list of [kind, training, epoch, step, times]. Before that step (from 0) of that
epoch (from 1) of that training, and so many times in all, the fault happens in the process of the training. A training
is the number of a trial, `single` for a baseline or a final training, or the stem of the checkpoint of a confirmation.
Every epoch is saved.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from tune_resnet import search
from tune_resnet.data.types import Split
from tune_resnet.execution import trainable, training_pool, tuner
from tune_resnet.training import checkpoint
from tune_resnet.training.device import ResolvedSpec
from tune_resnet.training.loop import TrainingRun

FILE = Path(os.environ["FAULTS"])


class FaultyTraining(TrainingRun):
    """Counts its faults in files beside FAULTS, as its process may not outlive them."""

    who = "single"  # of this process

    def _step(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        epoch, place = divmod(step, self.steps_per_epoch)
        for kind, training, at_epoch, at_step, times in json.loads(FILE.read_text()):
            if (str(training), at_epoch, at_step) == (self.who, epoch + 1, place):
                count = FILE.with_name(f"{kind}-{training}-{at_epoch}-{at_step}")
                count.write_text(count.read_text() + "x" if count.exists() else "x")
                if len(count.read_text()) <= times:
                    happen(kind)
        return super()._step(images, labels, step)


class FaultyTrainable(trainable.TrialTrainable):
    def setup(self, config: dict[str, Any], spec: ResolvedSpec, data: Split, run_path: Path) -> None:
        break_trainings()
        FaultyTraining.who = str(config["trial"])
        super().setup(config, spec, data, run_path)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        FaultyTraining.who = str(new_config["trial"])
        return super().reset_config(new_config)


class FaultyTrainer(training_pool.Trainer):
    def __init__(self, *arguments: Any) -> None:
        break_trainings()
        super().__init__(*arguments)

    def epoch(self, train: Any, path: Path) -> dict[str, Any]:
        FaultyTraining.who = path.stem
        return super().epoch(train, path)


def break_trainings() -> None:
    """From now on in this process, trainings may break, and are saved after every epoch."""
    checkpoint.MAX_LOST_SECONDS = 0.0
    vars(checkpoint)["TrainingRun"] = FaultyTraining


def happen(kind: str) -> None:
    """One fault in this process."""
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raises":
        raise RuntimeError("the loop broke")
    if kind == "out of memory":
        raise MemoryError
    if kind == "disk full":
        raise OSError(28, "No space left on device")
    if kind == "hangs":
        time.sleep(1000)
    if kind == "node killed":
        os.kill(os.getppid(), signal.SIGKILL)  # Ray's own process of this node
        time.sleep(1000)
    if kind == "stands still":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "stands still for a while":
        subprocess.Popen(["sh", "-c", f"sleep 3; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind.startswith("command: "):
        os.kill(int(os.environ["COMMAND"]), signal.Signals[kind.removeprefix("command: ")])
        time.sleep(0.3)  # it may hear of the step's end after that


if __name__ == "__main__":
    os.environ["COMMAND"] = str(os.getpid())
    break_trainings()
    tuner.run_trials = partial(tuner.run_trials, trainable=FaultyTrainable)
    vars(training_pool)["Trainer"] = FaultyTrainer
    code = search.main()
    sys.stdout.flush()
    os._exit(code)
