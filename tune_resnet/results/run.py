"""A run as Python has it: `Search(spec).run()` and `load_run` give one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tune_resnet.config.spec import SearchSpec
from tune_resnet.data.image_file import image_files
from tune_resnet.hpo.ranking import ranked_trials, winner
from tune_resnet.results.confirmation import Confirmation, confirmations
from tune_resnet.results.sentences import run_sentences
from tune_resnet.runs import load
from tune_resnet.runs.load import RunFrames


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What a run directory holds and what follows from it. `frames`: its tables as they are in the files, which the
    functions of `tune_resnet.analysis` take."""

    frames: RunFrames

    @property
    def path(self) -> Path:
        return self.frames.path

    @property
    def spec(self) -> SearchSpec:
        return self.frames.spec

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial, the best first: the columns of trials.csv, `estimate` (the accuracy in [0, 1] that it
        is likely to have on other images, NaN where it has not finished), `winner` and `reference` (bool)."""
        return ranked_trials(self.frames)

    @property
    def epochs(self) -> pd.DataFrame:
        """A row for each epoch of each trial: the columns of epochs.csv."""
        return self.frames.epochs

    @property
    def winner(self) -> dict[str, Any] | None:
        """The first of the trials, by column; None: none has finished."""
        return winner(self.frames)

    @property
    def confirmation(self) -> Confirmation | None:
        """The winner's, at the search's own size where there is such a one, with a `result` of None while there are too
        few pairs; None: no pair has been trained."""
        return next((one for one in confirmations(self.frames) if one.of_winner), None)

    def config(self, trial: int) -> SearchSpec:
        """The spec whose reference is what a trial trained; KeyError where there is no such trial."""
        return self.frames.config(trial)

    def predict(self, *images: Path | str, model: str | None = None) -> pd.DataFrame:
        """Class probabilities of image files, of any size, and of those in folders, by the model that the command
        `predict` uses: a row for each file (`file`: its path), a column for each class.

        Args:
            images: files or folders.
            model: `MODULE:FUNCTION` of your own network, if the run used one.

        Raises:
            UserError: the run has no model yet, or an image cannot be read.
        """
        from tune_resnet.hpo.models import chosen_model  # takes torch along, which the tables can do without
        from tune_resnet.training.saved_model import file_probabilities, load_model

        trained = load_model(chosen_model(self.path).path, model)
        files = [file for named in images for file in image_files(Path(named))]
        index = pd.Index([str(file) for file in files], name="file")
        return pd.DataFrame(file_probabilities(trained, files), index=index, columns=list(trained.classes))

    def __repr__(self) -> str:
        return f"{self.frames!r}: {run_sentences(self.frames)[0]}"


def load_run(named: Path | str) -> Run:
    """The run with this path, with this name in runs/, or for `latest` the one there that was started last; also while
    it goes on.

    Raises:
        RecordError: there is no such run, or a file in its directory cannot be read or is damaged.
    """
    return Run(load.load_frames(named))
