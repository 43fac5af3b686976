"""What earlier runs give a search: all their trials where the task was the same, else their best ones to try first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tune_resnet.config.hyperparameters import Configuration
from tune_resnet.config.space import Choices, Domain
from tune_resnet.config.spec import SearchSpec
from tune_resnet.errors import RecordError, UserError
from tune_resnet.hpo.ranking import finished_trials
from tune_resnet.runs.load import RunFrames, load_frames
from tune_resnet.runs.reading import read_text, records
from tune_resnet.runs.tables import FINISHED, STOPPED, spec_of, value_in

_TRIED_FIRST = 3  # of each run whose task was another one

_STATES = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED}


@dataclass
class WarmStart:
    """Earlier trials that count as if they were this search's, and configurations to try first."""

    trials: list[FrozenTrial] = field(default_factory=list)
    configurations: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> str:
        """What a resumed search reads: the earlier runs may be gone by then."""
        trials = [
            {
                "state": trial.state.name,
                "params": trial.params,
                "value": trial.value,
                "intermediate_values": trial.intermediate_values,
            }
            for trial in self.trials
        ]
        return json.dumps({"trials": trials, "configurations": self.configurations}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path, spec: SearchSpec) -> WarmStart:
        """What `to_json` gave, in a file; nothing where there is none. RecordError where it is damaged."""
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
    """One trial of what was kept; any of several errors where it is not one."""
    state = TrialState[kept["state"]]
    if state not in _STATES.values():
        raise ValueError
    return known_trial(
        spec,
        _kept_params(kept["params"], spec),
        state=state,
        value=None if kept["value"] is None else _number(kept["value"], 0, 1),
        intermediate_values={int(epoch): _number(value, 0, 1) for epoch, value in kept["intermediate_values"].items()},
    )


def _kept_params(kept: Any, spec: SearchSpec) -> dict[str, Any]:
    """A configuration that was kept; of what the run has begun to vary since then, with the reference's value."""
    known = {name: _value(spec.kind(name), kept.get(name, value)) for name, value in spec.reference.items()}
    if not _inside(known, spec):
        raise ValueError
    return known


def _value(kind: type, kept: Any) -> Any:
    if type(kept) is int and kind is float:
        return float(kept)
    if type(kept) is not kind:
        raise ValueError
    return kept


def _number(value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise ValueError
    return float(value)


def distributions(spec: SearchSpec, values: Mapping[str, Any] | None = None) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms; where `values` are given, of what the search varies with those."""
    names = spec.space if values is None else spec.varied(values)
    return {name: _distribution(spec.kind(name), spec.space[name]) for name in names}


def _distribution(kind: type, domain: Domain | Choices) -> BaseDistribution:
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.choices)
    if kind is int:
        low, high, step = math.ceil(domain.low), math.floor(domain.high), int(domain.step or 1)
        return IntDistribution(low, high, log=bool(domain.log), step=step)
    return FloatDistribution(domain.low, domain.high, log=bool(domain.log), step=domain.step)


def known_trial(spec: SearchSpec, values: Mapping[str, Any], **about: Any) -> FrozenTrial:
    """A trial with these values of the hyperparameters, of which the study knows those that it varies with them."""
    found = distributions(spec, values)
    return optuna.trial.create_trial(params={name: values[name] for name in found}, distributions=found, **about)


def warm_start(paths: Sequence[Path], spec: SearchSpec, fingerprint: str) -> WarmStart:
    """What the runs in these directories are worth for a search of `spec` on the images with this fingerprint.

    A trial counts as one of this search where it was trained on the same images as this search trains, with values
    that lie in this search's space, and has the score that judges here. What its own search did not vary had the value
    of its reference. Of a run that has no such trial the best are tried first, with the nearest of this search's
    choices.

    Raises:
        UserError: a run has no finished or stopped trial inside of the space, or is no run.
    """
    found, column, wanted = WarmStart(), spec.search.column("val"), _rest({}, spec, spec)
    for path in paths:
        frames = load_frames(path)
        known = frames.trials[frames.trials["state"].isin(list(_STATES)) & frames.trials["val_accuracy"].notna()]
        tried = [(row, _values(row, frames, spec)) for row in records(known)]
        if not any(_inside(_with_nearest_choices(values, spec), spec) for _, values in tried):
            raise UserError(f"{frames.name} has no trial in this search's space to start from")
        same_images = frames.env.get("dataset_fingerprint") == fingerprint and column in frames.trials
        inside = [(row, values) for row, values in tried if _inside(values, spec)]
        same = [one for one in inside if same_images and _rest(one[0], frames.spec, spec) == wanted]
        if same:
            found.trials += [_trial(row, values, spec) for row, values in same]
        else:
            found.configurations += [one for one in _best(frames, spec) if one not in found.configurations]
    return found


def _rest(row: Mapping[str, Any], own: SearchSpec, spec: SearchSpec) -> Configuration:
    """What a trial of `own` trained, and on what, but for what `spec` varies; a seed is noise."""
    trial = spec_of(row, own)
    varied = spec.reference if own.model.factory == spec.model.factory else {}  # else they differ in any case
    found = Configuration(data=trial.data, model=trial.model, train=trial.train)
    return found.configured({**varied, "data.data_dir": None, "seed": 0, "precision": "auto"})


def _values(row: Mapping[str, Any], frames: RunFrames, spec: SearchSpec) -> dict[str, Any]:
    """A trial's values of what `spec` varies."""
    return {name: value_in(row, frames.spec, name) for name in spec.space}


def _with_nearest_choices(values: Mapping[str, Any], spec: SearchSpec) -> dict[str, Any]:
    return {
        name: domain.nearest(values[name]) if isinstance(domain, Choices) else values[name]
        for name, domain in spec.space.items()
    }


def _inside(values: Mapping[str, Any], spec: SearchSpec) -> bool:
    return all(domain.holds(values[name]) for name, domain in spec.space.items())


def _trial(row: Mapping[str, Any], values: Mapping[str, Any], spec: SearchSpec) -> FrozenTrial:
    column = spec.search.column("val")
    return known_trial(
        spec,
        values,
        state=_STATES[row["state"]],
        value=row[column] if row["state"] == FINISHED else None,
        intermediate_values={row["epochs"]: row[column]},
    )


def _best(frames: RunFrames, spec: SearchSpec) -> list[dict[str, Any]]:
    finished = records(finished_trials(frames))
    found = [spec.reference]  # which every search tries: what varied only there is the same as it, or as another
    for row in finished:
        values = _with_nearest_choices(_values(row, frames, spec), spec)
        if _inside(values, spec) and values not in found:
            found.append(values)
    return found[1 : _TRIED_FIRST + 1]
