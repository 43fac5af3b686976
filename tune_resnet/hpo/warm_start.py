"""What earlier runs give a search: all their trials where the task was the same, else their best ones to try first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from tune_resnet._files import write_whole
from tune_resnet.config.spec import SearchSpec
from tune_resnet.errors import RecordError, UserError
from tune_resnet.hpo.ranking import best_trials
from tune_resnet.runs.load import RunFrames, load_run
from tune_resnet.runs.reading import read_text
from tune_resnet.runs.tables import FINISHED, REFERENCE_TRIAL, STOPPED

_TRIED_FIRST = 3  # of each run whose task was another one

_STATES = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED}


@dataclass
class WarmStart:
    """Earlier trials that count as if they were this search's, and configurations to try first."""

    trials: list[FrozenTrial] = field(default_factory=list)
    configurations: list[dict[str, float]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Keeps it for a resumed search: the earlier runs may be gone by then."""
        trials = [
            {
                "state": trial.state.name,
                "params": trial.params,
                "value": trial.value,
                "intermediate_values": trial.intermediate_values,
            }
            for trial in self.trials
        ]
        write_whole(path, json.dumps({"trials": trials, "configurations": self.configurations}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path, spec: SearchSpec) -> WarmStart:
        """What `write` kept; nothing where there is no file. RecordError where it is damaged."""
        if not path.exists():
            return cls()
        try:
            kept = json.loads(read_text(path))
            trials = [_kept_trial(trial, spec) for trial in kept["trials"]]
            configurations = [_kept_params(one, spec) for one in kept["configurations"]]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise RecordError(f"{path} is damaged") from None
        return cls(trials, configurations)


def _kept_trial(kept: Any, spec: SearchSpec) -> FrozenTrial:
    """One trial of what `write` kept; any of several errors where it is not one."""
    state = TrialState[kept["state"]]
    if state not in _STATES.values():
        raise ValueError
    return optuna.trial.create_trial(
        state=state,
        params=_kept_params(kept["params"], spec),
        distributions=distributions(spec),
        value=None if kept["value"] is None else _number(kept["value"], 0, 1),
        intermediate_values={int(epoch): _number(value, 0, 1) for epoch, value in kept["intermediate_values"].items()},
    )


def _kept_params(kept: Any, spec: SearchSpec) -> dict[str, float]:
    """What the run has begun to vary since then was the reference's."""
    known = {**spec.reference, **kept}
    return {name: _number(known[name], domain.low, domain.high) for name, domain in spec.space.items()}


def _number(value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError
    return float(value)


def distributions(spec: SearchSpec) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    return {name: FloatDistribution(domain.low, domain.high, log=domain.log) for name, domain in spec.space.items()}


def warm_start(paths: Sequence[Path], spec: SearchSpec, fingerprint: str) -> WarmStart:
    """What the runs in these directories are worth for a search of `spec` on the images with this fingerprint.

    Raises:
        UserError: a run has no finished or stopped trial inside of the space, or is no run.
    """
    found = WarmStart()
    for path in paths:
        frames = load_run(path)
        trials = _trials(frames, spec)
        if not trials:
            raise UserError(f"{frames.name} has no trial in this search's space to start from")
        if _task(frames.spec) == _task(spec) and frames.env.get("dataset_fingerprint") == fingerprint:
            found.trials += trials
        else:
            found.configurations += _best(frames, spec)
    return found


def _task(spec: SearchSpec) -> tuple[Any, ...]:
    """What trials must have in common for their results to be comparable; a seed is noise."""
    train = replace(spec.train, seed=0, precision="auto", **dict.fromkeys(spec.space, 1.0))  # type: ignore[arg-type]
    return replace(spec.data, data_dir=None), spec.model, train


def _inside(row: Mapping[Any, Any], spec: SearchSpec) -> bool:
    return all(domain.low <= row[name] <= domain.high for name, domain in spec.space.items())


def _trials(frames: RunFrames, spec: SearchSpec) -> list[FrozenTrial]:
    return [
        optuna.trial.create_trial(
            state=_STATES[row["state"]],
            params={name: row[name] for name in spec.space},
            distributions=distributions(spec),
            value=row["val_accuracy"] if row["state"] == FINISHED else None,
            intermediate_values={row["epochs"]: row["val_accuracy"]},
        )
        for row in frames.trials.to_dict("records")
        if row["state"] in _STATES and row["val_accuracy"] == row["val_accuracy"] and _inside(row, spec)
    ]


def _best(frames: RunFrames, spec: SearchSpec) -> list[dict[str, float]]:
    finished = best_trials(frames, len(frames.trials)).to_dict("records")
    rows = [row for row in finished if row["trial"] != REFERENCE_TRIAL and _inside(row, spec)]
    return [{name: row[name] for name in spec.space} for row in rows[:_TRIED_FIRST]]
