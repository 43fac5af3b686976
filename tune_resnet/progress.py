"""What a person watches: a live table on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune_resnet.plan import Plan
from tune_resnet.recorder import Recorder
from tune_resnet.records import FINISHED, REFERENCE_TRIAL, RUNNING, TrialRow
from tune_resnet.text import duration, percent, say

_COLUMNS = ("trial", "state", "epochs", "val_acc", "max_lr", "weight_decay", "grad_clip")
_BEST_ROWS, _RUNNING_ROWS = 5, 12  # so that the table fits a small terminal


class Progress:
    """Shows a recorder's trials while a search runs; a context manager.

    Call `trial_ended` after each trial. On a terminal the table redraws itself twice a second.
    """

    def __init__(self, recorder: Recorder, plan: Plan, console: Console) -> None:
        self.recorder, self.plan, self.console = recorder, plan, console
        self.started = time.monotonic()
        self.live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def trial_ended(self, trial: int) -> None:
        """Where output is not a terminal, a line about one trial and the state of the search."""
        if self.console.is_terminal:
            return
        row = self.recorder.trials[trial]
        ended = sum(other.state != RUNNING for other in self._rows())
        reason = f" ({row.error})" if row.error else ""
        say(
            self.console,
            f"[{ended}/{self.plan.trials}] {_name(trial)} {row.state} after {row.epochs} of {self.plan.epochs} epochs, "
            f"{percent(row.val_accuracy)}{reason}; {self._standing()}; {self._clock()}",
        )

    def trial_goes_on(self, trial: int, epoch: int) -> None:
        """A line about a trial that has been begun again, after `epoch` of those on record or from its start (0)."""
        on_record = self.recorder.trials[trial].epochs
        if epoch:
            say(self.console, f"{_name(trial)} goes on after epoch {epoch} of the {on_record} on record")
        else:
            say(
                self.console,
                f"{_name(trial)} begins anew: it has {on_record} epochs on record, but no checkpoint to go on from",
            )

    def trial_tried_again(self, trial: int, reason: str) -> None:
        """A line about a trial that has failed, but not for good."""
        say(self.console, f"{_name(trial)} is tried again ({reason})")

    def seconds_left(self) -> float:
        """Estimated from the epochs that ended trials took, and before any has ended from the plan."""
        rows = self._rows()
        ended = [row.epochs for row in rows if row.state != RUNNING and row.trial != REFERENCE_TRIAL]
        # The plan counts as much as one trial, so that the first to end does not swing the estimate.
        each = (sum(ended) + self.plan.epochs_per_trial) / (len(ended) + 1)
        running = [row for row in rows if row.state == RUNNING]
        left = (self.plan.trials - len(rows)) * each
        left += sum(
            (self.plan.epochs if row.trial == REFERENCE_TRIAL else max(each, row.epochs + 1)) - row.epochs
            for row in running
        )
        done = sum(row.epochs for row in rows)
        seconds_per_epoch = sum(row.seconds for row in rows) / done if done else self.plan.seconds_per_epoch
        return left * seconds_per_epoch / self.plan.concurrency

    def _rows(self) -> list[TrialRow]:
        return list(self.recorder.trials.values())

    def _standing(self) -> str:
        """The best trial so far beside the reference."""
        finished = [row for row in self._rows() if row.state == FINISHED]
        if not finished:
            return "none finished yet"
        best = max(finished, key=lambda row: row.val_accuracy)
        reference = self.recorder.trials.get(REFERENCE_TRIAL)  # another trial may be quicker to start
        beside = f", reference {percent(reference.val_accuracy)}" if reference in finished else ""
        return f"best {percent(best.val_accuracy)} (trial {best.trial}){beside}"

    def _clock(self) -> str:
        return f"{duration(time.monotonic() - self.started)} elapsed, about {duration(self.seconds_left())} left"

    def _table(self) -> RenderableType:
        rows = self._rows()
        ended = sum(row.state != RUNNING for row in rows)
        head = Text(f"{ended} of {self.plan.trials} trials ended; {self._standing()}; {self._clock()}")
        bar = Table.grid()  # a bar on its own leaves its line open
        bar.add_row(ProgressBar(total=self.plan.trials, completed=ended, width=60))
        table = Table(
            "trial", "state", "epochs", "val_acc", "max_lr", "weight_decay", "grad_clip", box=None, pad_edge=False
        )
        for row in _shown(rows):
            table.add_row(
                "reference" if row.trial == REFERENCE_TRIAL else str(row.trial),
                row.state,
                f"{row.epochs}/{self.plan.epochs}",
                percent(row.val_accuracy),
                f"{row.max_lr:#.3g}",
                f"{row.weight_decay:.1e}",
                f"{row.grad_clip:#.3g}",
            )
        return Group(head, bar, table)


def _name(trial: int) -> str:
    return "reference" if trial == REFERENCE_TRIAL else f"trial {trial}"


def _shown(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The best finished trials, then the running ones."""
    finished = sorted((row for row in rows if row.state == FINISHED), key=lambda row: -row.val_accuracy)
    return finished[:_BEST_ROWS] + [row for row in rows if row.state == RUNNING][:_RUNNING_ROWS]
