"""What a person watches: a live table on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Self

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune_resnet._table import STYLES, FittingTable, row_style
from tune_resnet._text import counted, duration, hyperparameter, percent, say
from tune_resnet.config.sections import TUNABLE
from tune_resnet.execution.training_pool import Training
from tune_resnet.hpo.plan import Plan
from tune_resnet.hpo.ranking import estimated, in_order
from tune_resnet.runs.recorder import Recorder
from tune_resnet.runs.tables import FINISHED, REFERENCE_TRIAL, RUNNING, TrialRow, spec_of
from tune_resnet.training.schedule import rate_at

_BEST_ROWS, _RUNNING_ROWS = 5, 12  # so that the table fits a small terminal
_PLANNED_TRIALS = 4  # the plan counts as much as so many trials, so that the first to end do not swing the estimate


class _Display(ABC):
    """What redraws itself twice a second in the time of a block, where output is a terminal. Rich draws it once when it
    is made, so that what it shows has to be there before."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console, self.started = plan, console, time.monotonic()
        self.live = Live(get_renderable=self._drawn, console=console, refresh_per_second=2, transient=True)

    @abstractmethod
    def _drawn(self) -> RenderableType:
        """How it looks now."""

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()  # whether it was begun or not: a terminal that is closed meanwhile is none any more


class Progress(_Display):
    """Shows a recorder's trials while a search runs. Call `trial_ended` after each trial."""

    def __init__(self, recorder: Recorder, plan: Plan, console: Console) -> None:
        self.recorder, self.column = recorder, plan.spec.search.column("val")
        self.epochs_before = sum(row.epochs for row in self._rows())  # on record
        self._ranked = 0  # finished trials, of which the next two tell, see `_rank`
        self._standing = "none finished yet"  # who would win if this were the end, beside the reference
        self._leading: list[tuple[int, float]] = []  # the best and the reference, with estimates
        super().__init__(plan, console)

    def trial_ended(self, trial: int) -> None:
        """Where output is not a terminal, a line about one trial and the state of the search."""
        if self.console.is_terminal:
            return
        self._rank()
        row = self.recorder.trials[trial]
        ended = sum(other.state != RUNNING for other in self._rows())
        trained = f"{row.epochs} of {counted(self.plan.epochs, 'epoch')}"
        reason = f" ({row.error})" if row.error else ""
        say(
            self.console,
            f"[{ended}/{self.plan.trials}] {_name(trial)} {row.state} after {trained}, "
            f"{percent(row.cells()[self.column])}{reason}; {self._standing}; {self._clock()}",
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
        """Estimated from the pace of the epochs trained, and from the share of trials that went on after each epoch;
        until the first comes, with the start of the processes."""
        rows = self._rows()
        done, running, left = self._epochs(rows)
        seconds_per_epoch = sum(row.seconds for row in rows) / done if done else self.plan.seconds_per_epoch
        start = 0.0 if done > self.epochs_before or not left else self.plan.start_seconds
        return start + max([left / self.plan.concurrency, *running]) * seconds_per_epoch

    def _epochs(self, rows: Sequence[TrialRow]) -> tuple[int, list[float], float]:
        """How many have been trained, how many each running trial is expected to train, and how many all trials are."""
        expected = self._epochs_to_come(rows)
        running = [
            self.plan.epochs - row.epochs if row.trial == REFERENCE_TRIAL else expected[row.epochs]
            for row in rows
            if row.state == RUNNING
        ]
        left = sum(running) + (self.plan.trials - len(rows)) * expected[0]
        return sum(row.epochs for row in rows), running, left

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

    def _rank(self) -> None:
        """Ranks the finished trials, as `ranked_trials` does, when there is one more."""
        rows = [row for row in self._rows() if row.state == FINISHED]
        if len(rows) != self._ranked:
            trials = pd.DataFrame([row.cells() for row in sorted(rows, key=lambda row: row.trial)])
            losses = pd.Series(dict(self.recorder.last_loss))  # a copy: it may grow while a Series reads it
            estimates = estimated(trials.set_index("trial")[self.column], losses, self.plan.spec)
            ranked = in_order(trials, estimates, self.column)
            first = ranked[(ranked.index < _BEST_ROWS) | ranked["reference"]]
            self._ranked, self._standing = len(rows), _leader(ranked) or self._standing
            self._leading = list(zip(first["trial"], first["estimate"], strict=True))

    def _clock(self) -> str:
        return f"{duration(time.monotonic() - self.started)} elapsed, about {duration(self.seconds_left())} left"

    def _drawn(self) -> RenderableType:
        self._rank()
        rows = self._rows()
        ended = sum(row.state != RUNNING for row in rows)
        head = Text(f"{ended} of {counted(self.plan.trials, 'trial')} ended; {self._standing}; {self._clock()}")
        done, _, left = self._epochs(rows)
        names = self.plan.spec.hyperparameters
        score = self.column.replace("accuracy", "acc")
        columns = ("trial", "state", "epochs", score, "estimate", "lr now")
        others = reversed(names[len(TUNABLE) :])  # how far trials are is what this is for
        table = FittingTable(*columns, *names, least=(*others, "lr now", "epochs", "state", score))
        shown = [(self.recorder.trials[trial], estimate) for trial, estimate in self._leading]
        shown += [(row, math.nan) for row in rows if row.state == RUNNING][:_RUNNING_ROWS]
        for place, (row, estimate) in enumerate(shown):
            is_reference = row.trial == REFERENCE_TRIAL
            table.add_row(
                "reference" if is_reference else str(row.trial),
                Text(row.state, STYLES[row.state]),
                f"{row.epochs}/{self.plan.epochs}",
                percent(row.cells()[self.column]),
                percent(estimate),
                f"{self._lr(row):.1e}" if row.state == RUNNING else "",
                *(hyperparameter(name, value) for name, value in row.values.items()),
                style=row_style(winner=place == 0 and row.state == FINISHED, reference=is_reference),
            )
        return Group(head, _bar_of_epochs(done, left), table)


class TrainingsProgress(_Display):
    """Shows how far trainings without a search are."""

    def __init__(self, trainings: Sequence[Training], plan: Plan, console: Console, most: str) -> None:
        """`most`: "about " or "at most ", where fewer may do."""
        self.trainings, self.most = trainings, most
        self.ended: set[int] = set()  # positions of trainings
        super().__init__(plan, console)

    def words_left(self) -> str:
        """The time left, from the pace of the epochs trained here; until the first comes, with the start of the
        processes."""
        running = [
            self.plan.epochs - each.epochs for place, each in enumerate(self.trainings) if place not in self.ended
        ]
        trained = sum(each.trained for each in self.trainings)
        pace = sum(each.seconds for each in self.trainings) / trained if trained else self.plan.seconds_per_epoch
        longest = max(sum(running) / self.plan.concurrency, max(running, default=0))
        start = 0.0 if trained or not running else self.plan.start_seconds
        return f"{self.most}{duration(start + longest * pace)} left"

    def _drawn(self) -> RenderableType:
        done, total = sum(each.epochs for each in self.trainings), self.plan.epochs * len(self.trainings)
        trainings = counted(len(self.trainings), "training")
        elapsed = duration(time.monotonic() - self.started)
        head = Text(f"{len(self.ended)} of {trainings} ended; {elapsed} elapsed, {self.words_left()}")
        return Group(head, _bar_of_epochs(done, total - done, ""))


def _bar_of_epochs(done: int, left: float, most: str = "about ") -> RenderableType:
    """How far the epochs have come, as a bar and in words."""
    total = done + round(left)
    bar = Table.grid(padding=(0, 1))  # a bar on its own leaves its line open
    bar.add_row(
        ProgressBar(total=max(total, 1), completed=done, width=40), f"{done} of {most}{counted(total, 'epoch')}"
    )
    return bar


def _leader(ranked: pd.DataFrame) -> str:
    """The first of the ranked trials, beside the reference; empty where it would be no winner."""
    best, reference = ranked.iloc[0], ranked[ranked["reference"]]
    if not ranked["winner"].any():
        return ""
    if best["reference"]:
        return f"best the reference, estimate {percent(best['estimate'])}"
    # another trial may be quicker to start
    beside = "" if reference.empty else f", reference {percent(reference['estimate'].item())}"
    return f"best trial {best['trial']}, estimate {percent(best['estimate'])}{beside}"


def _name(trial: int) -> str:
    return "reference" if trial == REFERENCE_TRIAL else f"trial {trial}"
