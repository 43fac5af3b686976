"""What a run has done so far, read from its directory: what --resume begins with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tune_resnet.frames import EPOCH_DTYPES, load_run
from tune_resnet.reading import read_table
from tune_resnet.records import ENDED, RecordError, RunDirectory, TrialRow


@dataclass(frozen=True, kw_only=True)
class History:
    """Trials by number, 0 and up without a gap; the rows of epochs.csv in the order of their writing; env.json.

    A trial that is `running` or `interrupted` has not ended: it goes on.
    """

    trials: list[TrialRow] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(row.state in ENDED for row in self.trials)


def read_history(run: RunDirectory) -> History:
    """The history of a run that nothing else writes to; what a crash left half-written is removed first.

    Raises:
        RecordError: a file is missing or damaged, or a trial is missing.
    """
    run.repair()
    frames = load_run(run.path)
    if "dataset_fingerprint" not in frames.env:
        raise RecordError(f"{run.env_json} does not say which images the run is about, so it cannot be continued")
    trials = frames.trials.sort_values("trial")
    missing = set(range(len(trials))) - set(trials["trial"])
    if missing:
        raise RecordError(f"{run.trials_csv} lacks trial {min(missing)}, so the search cannot be continued")
    epochs = read_table(run.epochs_csv, EPOCH_DTYPES)
    epochs = epochs[epochs["trial"].isin(trials["trial"])].drop_duplicates(["trial", "epoch"], keep="last")
    return History(
        trials=[TrialRow(**{str(name): value for name, value in row.items()}) for row in trials.to_dict("records")],
        epochs=[{str(name): value for name, value in row.items()} for row in epochs.to_dict("records")],
        env=frames.env,
    )
