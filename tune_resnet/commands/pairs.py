"""The pairs of trainings that a confirmation compares: which there are, which are missing, and how they are judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tune_resnet._files import write_whole
from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.split import baseline_split
from tune_resnet.data.types import Dataset, Split, check_test_set
from tune_resnet.errors import UserError
from tune_resnet.hpo.ranking import winner
from tune_resnet.results.confirmation import SEED_OFFSET, look
from tune_resnet.results.paired_test import MAX_PAIRS, PairedResult
from tune_resnet.runs.directory import SEARCH, RunDirectory
from tune_resnet.runs.load import RunFrames
from tune_resnet.runs.tables import REFERENCE, REFERENCE_TRIAL, SEQUENTIAL, SIZE, WINNER, spec_of


class ConfirmError(UserError):
    """A run that cannot be confirmed."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What is compared. `spec` is the reference, with the size to train at, the search's own or another."""

    run: RunDirectory
    spec: SearchSpec
    trial: int  # the winner
    winner: SearchSpec
    seeds: tuple[int, ...]
    sequential: bool  # as many of the seeds as it takes
    data: Split

    @property
    def size(self) -> dict[str, int]:
        values = (self.spec.model.width, len(self.data.train), self.spec.train.epochs)
        return dict(zip(SIZE, values, strict=True))

    def trained(self, seed: int, configuration: str) -> SearchSpec:
        return (self.winner if configuration == WINNER else self.spec).configured({"seed": seed})

    def checkpoint(self, seed: int, configuration: str) -> Path:
        trial = self.trial if configuration == WINNER else REFERENCE_TRIAL
        return self.run.confirmation_of(trial, seed, self.size)

    def rows(self, table: pd.DataFrame, configuration: str) -> pd.DataFrame:
        """The trainings of a configuration in confirm.csv, at this size."""
        values = self.trained(self.seeds[0], configuration).values
        wanted = {"configuration": configuration, **values, **self.size}
        return table[(table[list(wanted)] == list(wanted.values())).all(axis=1)]

    def missing(self, table: pd.DataFrame) -> list[tuple[int, str]]:
        """Seed and configuration of each training that confirm.csv lacks; none once the verdict is clear."""
        if self.is_clear(table):
            return []
        known = {name: set(self.rows(table, name)["seed"]) for name in (WINNER, REFERENCE)}
        return [(seed, name) for seed in self.seeds for name in known if seed not in known[name]]

    def look(self, table: pd.DataFrame) -> PairedResult | None:
        """The last look of a sequential confirmation, None before the first."""
        if not self.sequential:
            return None
        rows = pd.concat([self.rows(table, name) for name in (WINNER, REFERENCE)])
        return look(rows, self.seeds[0], self.spec.search.column("test"))

    def is_clear(self, table: pd.DataFrame) -> bool:
        found = self.look(table)
        return found is not None and found.is_clear

    def row(self, configuration: str, outcome: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The row of confirm.csv for what a whole training gave, see `Trainer.epoch`."""
        return {
            **outcome,
            "configuration": configuration,
            "seconds": seconds,
            **self.size,
            "rule": SEQUENTIAL if self.sequential else "",
        }

    def write(self, table: pd.DataFrame) -> None:
        """Writes confirm.csv."""
        table = table.sort_values([*SIZE, "seed", "configuration"])
        write_whole(self.run.confirm_csv, table.to_csv(index=False, lineterminator="\n"))


def compared_with_reference(frames: RunFrames, spec: SearchSpec, dataset: Dataset, count: int | None) -> Pairs | None:
    """What a confirmation of a run's winner compares, with `count` pairs or as many as it takes; None where no trial
    beats the reference. ConfirmError where there is nothing to confirm, or it would be on other images."""
    if frames.kind != SEARCH:  # its spec has the trained configuration for reference
        raise ConfirmError(f"--confirm needs the winner of a search: {frames.name} is a single training")
    run = RunDirectory(frames.path)
    check_test_set(dataset)
    if frames.env.get("dataset_fingerprint") != dataset.fingerprint:
        raise ConfirmError(f"the images differ from those of {frames.name}: env.json has another dataset_fingerprint")
    references = frames.confirm[frames.confirm["configuration"] == REFERENCE]
    for name, value in spec.values.items():
        if not (references[name] == value).all():
            raise ConfirmError(f"{run.confirm_csv} is about another reference: move it away to start anew")
    best = winner(frames)
    if best is None:
        raise ConfirmError(f"{frames.name} has no finished trial to confirm")
    if best["reference"]:
        return None
    return Pairs(
        run=run,
        spec=spec,
        trial=best["trial"],
        winner=spec_of(best, spec),
        seeds=tuple(spec.train.seed + SEED_OFFSET + number for number in range(count or MAX_PAIRS)),
        sequential=count is None,
        data=baseline_split(dataset, spec.data),
    )


def under_rule(compared: Pairs, known: pd.DataFrame) -> pd.DataFrame:
    """The rows of confirm.csv, the winner's with the rule by which they are judged from now on; the same table where
    that is what they have.

    Raises:
        ConfirmError: they have been looked at after each pair, and now a number of pairs is asked for.
    """
    own = compared.rows(known, WINNER)
    other = own.index[(own["rule"] == SEQUENTIAL) != compared.sequential]
    if other.empty:
        return known
    if not compared.sequential:
        raise ConfirmError(
            f"trial {compared.trial} is being confirmed with a look after each pair, after which a number of pairs "
            "fixed now would prove less than it seems: give --confirm without a number"
        )
    known = known.copy()
    known.loc[other, "rule"] = SEQUENTIAL
    compared.write(known)
    return known
