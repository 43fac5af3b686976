"""`python -m tune_resnet.search`, but with a trial that fails where faults.json says: what test_faults.py runs.

That file lies beside the run directory and holds a list of [kind, trial, epoch, times]. Before that epoch of that trial
begins, and so many times in all, the fault happens in the trial's process. Every epoch is saved.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from typing import Any

from tune_resnet import checkpoint, search, tuning
from tune_resnet.trainable import TrialTrainable


class FaultyTrainable(TrialTrainable):
    """Counts its faults in files beside the run directory, as its process may not outlive them."""

    def setup(self, config: dict[str, Any], **arguments: Any) -> None:
        checkpoint.LOSS_SECONDS = 0.0
        super().setup(config, **arguments)

    def step(self) -> dict[str, Any]:
        path = self.directory.path.with_name("faults.json")
        for kind, trial, epoch, times in json.loads(path.read_text()):
            if (trial, epoch) == (self.config["trial"], self.training.epochs_done + 1) and self.saved is None:
                count = path.with_name(f"{kind}-{trial}-{epoch}")
                count.write_text(count.read_text() + "x" if count.exists() else "x")
                if len(count.read_text()) <= times:
                    happen(kind)
        return super().step()


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
    if kind == "stands still":
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    checkpoint.LOSS_SECONDS = 0.0  # of a baseline, which trains in this process
    tuning.run_search = partial(tuning.run_search, trainable=FaultyTrainable)
    code = search.main()
    sys.stdout.flush()
    os._exit(code)
