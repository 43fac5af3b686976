"""The final model: the winner of a search, or another of its trials, trained for use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tune_resnet.commands.baseline import run_single
from tune_resnet.commands.job import End, Job
from tune_resnet.commands.request import Request
from tune_resnet.config.spec import SearchSpec
from tune_resnet.hpo.models import trial_to_finalize
from tune_resnet.runs.directory import FINAL, RunDirectory
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.resume import read_history
from tune_resnet.runs.tables import spec_of


def finalize(request: Request, path: Path, console: Console, started: float) -> End:
    """Trains the winner of a search, or the trial that is asked for, on training and validation images, in a run
    directory of its own within the search's."""
    frames = load_frames(path)
    row = trial_to_finalize(frames, request.trial)
    spec, final = request.spec, RunDirectory(path.resolve()).final
    spec = replace(spec_of(row, spec), search=replace(spec.search, name=None))
    job, of = Job(request, spec, console, started, FINAL, final), frames.env.get("dataset_fingerprint")
    before = load_frames(final) if final.exists() else None
    if before and before.env.get("trial") == row["trial"] and _is_same(spec, before.spec):
        run = RunDirectory(final)
        with run.lock():
            return run_single(replace(job, history=read_history(run)), row["trial"], path, of)
    return run_single(job, row["trial"], path, of)


def _is_same(*specs: SearchSpec) -> bool:
    """Whether two specs are of the same training, be it on another machine."""
    here = [spec.configured({"data.data_dir": None, "precision": "auto"}) for spec in specs]
    ours, theirs = ((spec.data, spec.model, spec.train) for spec in here)
    return ours == theirs
