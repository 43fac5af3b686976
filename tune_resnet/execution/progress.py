"""What a person watches: a live table on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune_resnet._text import counted, duration, hyperparameter, percent, say
from tune_resnet.hpo.plan import Plan
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.tables import FINISHED, REFERENCE_TRIAL, RUNNING, TrialRow, spec_of
from tune_resnet.training.schedule import rate_at

_COLUMNS = ("trial", "state", "epochs", "val_acc", "lr now")
_BEST_ROWS, _RUNNING_ROWS = 5, 12  # so that the table fits a small terminal
_PLANNED_TRIALS = 4  # the plan counts as much as so many trials, so that the first to end do not swing the estimate


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
        self.live.stop()  # whether it was begun or not: a terminal that is closed meanwhile is none any more

    def trial_ended(self, trial: int) -> None:
        """Where output is not a terminal, a line about one trial and the state of the search."""
        if self.console.is_terminal:
            return
        row = self.recorder.trials[trial]
        ended = sum(other.state != RUNNING for other in self._rows())
        trained = f"{row.epochs} of {counted(self.plan.epochs, 'epoch')}"
        reason = f" ({row.error})" if row.error else ""
        say(
            self.console,
            f"[{ended}/{self.plan.trials}] {_name(trial)} {row.state} after {trained}, "
            f"{percent(row.val_accuracy)}{reason}; {self._standing()}; {self._clock()}",
        )

    def trial_goes_on(self, trial: int, epoch: int) -> None:
        """A line about a trial that has been begun again, after the `epoch` of its checkpoint or from its start (0)."""
        on_record = self.recorder.trials[trial].epochs
        if epoch > on_record:
            say(self.console, f"{_name(trial)} goes on after epoch {epoch}, which was saved but is not on record yet")
        elif epoch:
            say(self.console, f"{_name(trial)} goes on after epoch {epoch} of the {on_record} on record")
        else:
            known = counted(on_record, "epoch")
            say(self.console, f"{_name(trial)} starts over: it has {known} on record, but no checkpoint to go on from")

    def trial_tried_again(self, trial: int, reason: str) -> None:
        """A line about a trial that has failed, but not for good."""
        say(self.console, f"{_name(trial)} is tried again ({reason})")

    def seconds_left(self) -> float:
        """Estimated from the pace of the epochs trained, and from the share of trials that went on after each epoch."""
        rows = self._rows()
        expected = self._epochs_to_come(rows)
        running = [
            self.plan.epochs - row.epochs if row.trial == REFERENCE_TRIAL else expected[row.epochs]
            for row in rows
            if row.state == RUNNING
        ]
        left = sum(running) + (self.plan.trials - len(rows)) * expected[0]
        done = sum(row.epochs for row in rows)
        seconds_per_epoch = sum(row.seconds for row in rows) / done if done else self.plan.seconds_per_epoch
        return max([left / self.plan.concurrency, *running]) * seconds_per_epoch

    def _epochs_to_come(self, rows: Sequence[TrialRow]) -> list[float]:
        """How many more epochs a running trial is expected to train, by the number of those that it has trained."""
        others = [row for row in rows if row.trial != REFERENCE_TRIAL]
        trained = Counter(row.epochs for row in others)
        ended = Counter(row.epochs for row in others if row.state != RUNNING)
        planned = [*self.plan.survival, 0.0]
        expected, went_on = [0.0], 0
        for epoch in range(self.plan.epochs, 0, -1):
            prior = _PLANNED_TRIALS * planned[epoch] / planned[epoch - 1]
            share = (went_on + prior) / (went_on + ended[epoch] + _PLANNED_TRIALS)
            expected.insert(0, 1 + share * expected[0])
            went_on += trained[epoch]
        return expected

    def _lr(self, row: TrialRow) -> float:
        """The learning rate at the beginning of the epoch that a trial is training."""
        plan = self.plan
        train = spec_of(row.values, plan.spec).train
        steps = math.ceil(plan.train_images / train.batch_size)
        step = min(row.epochs * steps, plan.epochs * steps - 1)  # it may have trained its last epoch
        return rate_at(train, step, plan.epochs * steps)

    def _rows(self) -> list[TrialRow]:
        return list(self.recorder.trials.values())

    def _standing(self) -> str:
        """The highest accuracy so far beside the reference's; who wins is settled at the end, when all are known."""
        finished = [row for row in self._rows() if row.state == FINISHED]
        if not finished:
            return "none finished yet"
        highest = max(finished, key=lambda row: row.val_accuracy)
        reference = self.recorder.trials.get(REFERENCE_TRIAL)  # another trial may be quicker to start
        beside = f", reference {percent(reference.val_accuracy)}" if reference in finished else ""
        return f"highest {percent(highest.val_accuracy)} (trial {highest.trial}){beside}"

    def _clock(self) -> str:
        return f"{duration(time.monotonic() - self.started)} elapsed, about {duration(self.seconds_left())} left"

    def _table(self) -> RenderableType:
        rows = self._rows()
        ended = sum(row.state != RUNNING for row in rows)
        head = Text(f"{ended} of {counted(self.plan.trials, 'trial')} ended; {self._standing()}; {self._clock()}")
        bar = Table.grid()  # a bar on its own leaves its line open
        bar.add_row(ProgressBar(total=self.plan.trials, completed=ended, width=60))
        table = Table(*_COLUMNS, *self.plan.spec.hyperparameters, box=None, pad_edge=False)
        for row in _shown(rows):
            table.add_row(
                "reference" if row.trial == REFERENCE_TRIAL else str(row.trial),
                row.state,
                f"{row.epochs}/{self.plan.epochs}",
                percent(row.val_accuracy),
                f"{self._lr(row):.1e}" if row.state == RUNNING else "",
                *(hyperparameter(name, value) for name, value in row.values.items()),
            )
        return Group(head, bar, table)


def _name(trial: int) -> str:
    return "reference" if trial == REFERENCE_TRIAL else f"trial {trial}"


def _shown(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The best finished trials, then the running ones."""
    finished = sorted((row for row in rows if row.state == FINISHED), key=lambda row: -row.val_accuracy)
    return finished[:_BEST_ROWS] + [row for row in rows if row.state == RUNNING][:_RUNNING_ROWS]
