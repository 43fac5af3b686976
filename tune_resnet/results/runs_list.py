"""The runs in a folder, each in a line: what `tune-resnet runs` prints."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.text import Text

from tune_resnet._table import STYLES, FittingTable
from tune_resnet._text import percent, printable
from tune_resnet.errors import RecordError
from tune_resnet.hpo.ranking import winner
from tune_resnet.results.confirmation import winner_results
from tune_resnet.runs.directory import SEARCH, RunDirectory
from tune_resnet.runs.find import runs_in, started_at
from tune_resnet.runs.load import RunFrames, load_frames
from tune_resnet.runs.tables import FINISHED, INTERRUPTED, RUNNING


def runs_table(folder: Path) -> FittingTable:
    """A row for each run, the one that was started last first; a damaged one is called that.

    `state`: running while a command is at work in it, finished when all trials have ended, else interrupted. `best`:
    the winner's estimate. `verdict`: of its confirmation, in percentage points.
    """
    runs = sorted(runs_in(folder), key=started_at, reverse=True)
    table = FittingTable("run", "state", "trials", "best", "verdict", "started", least=("started", "trials"))
    for run in runs:
        state, *cells = _cells(run)
        started = datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M") if (at := started_at(run)) else "-"
        table.add_row(Text(printable(run.path.name)), Text(state, STYLES.get(state, "red")), *cells, started)
    return table


def _cells(run: RunDirectory) -> list[str]:
    """State, trials, best and verdict."""
    try:
        frames = load_frames(run.path)
        best = winner(frames)
        reached = percent(best["estimate"]) + frames.spec.search.named if best else "-"
        verdict = _verdict(frames)
    except RecordError:
        return ["damaged", "-", "-", "-"]  # whatever reads it says how
    state = RUNNING if frames.active else FINISHED if frames.ended >= frames.planned else INTERRUPTED
    return [state, f"{frames.ended}/{frames.planned}", reached, verdict]


def _verdict(frames: RunFrames) -> str:
    """Of the winner, at the search's own size where there is such a one; of a run that is no search, what it is."""
    if confirmed := winner_results(frames):
        _, result = confirmed[0]
        return f"{result.verdict if result.is_clear else 'not clear'}, {result.mean:+.2f}"
    return "-" if frames.kind == SEARCH else f"a {frames.kind}"
