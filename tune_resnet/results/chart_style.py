"""How the report's plots look, the same in all of them.

Colours are Okabe and Ito's, which people with any colour vision tell apart, toned to stand out on white and on black. A
trace whose `meta` is `ink` takes the page's text colour. Text from a run directory is escaped: Plotly reads some HTML.
"""

from __future__ import annotations

import html

import pandas as pd
from plotly import graph_objects as go

from tune_resnet._text import hyperparameter, percent, printable
from tune_resnet.runs.reading import records
from tune_resnet.runs.tables import FAILED, FINISHED, INTERRUPTED, REFERENCE, RUNNING, STOPPED, WINNER

COLOURS = {
    STOPPED: "#8a8f98",
    FAILED: "#a0522d",
    INTERRUPTED: "#b8629b",
    RUNNING: "#009e73",
    FINISHED: "#2f86c5",
    REFERENCE: "ink",
    WINNER: "#e06a00",
}  # in the order of drawing
GREY = COLOURS[STOPPED]
PERCENT = ".1%"
_SYMBOLS = {REFERENCE: "diamond-open", WINNER: "star", FAILED: "x", STOPPED: "circle-open"}


def by_role(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each role that there is, in the order of drawing."""
    return [(role, rows[rows["role"] == role]) for role in COLOURS if (rows["role"] == role).any()]


def is_bold(role: str) -> bool:
    """Whether it stands out."""
    return role in (REFERENCE, WINNER)


def coloured(trace: go.Scatter | go.Bar, role: str) -> go.Scatter | go.Bar:
    trace.name = role
    trace.marker.color = COLOURS[role] if role != REFERENCE else None
    trace.meta = "ink" if role == REFERENCE else None
    if isinstance(trace, go.Scatter):
        trace.line.color = trace.marker.color
    return trace


def symbol_of(role: str) -> str:
    return _SYMBOLS.get(role, "circle")


def symbol(role: str) -> dict[str, object]:
    """As a marker's properties."""
    return {"symbol": symbol_of(role), "line_width": 2 * symbol_of(role).endswith("-open")}


def described(trials: pd.DataFrame, space: list[str]) -> pd.Series:
    """Of each trial its number, state, last accuracy and hyperparameters, for a hover."""
    texts = [
        "<br>".join(
            [
                f"trial {row['trial']} ({row['role']})",
                f"{percent(row['accuracy'])} after {row['epochs']:,} epochs",
                *(safe(f"{name} {hyperparameter(name, row[name])}") for name in space),
            ]
        )
        for row in records(trials)
    ]
    return pd.Series(texts, index=trials.index, dtype="object")


def tick(most: float) -> int:
    """Whole epochs between two labels of an axis."""
    return max(1, round(most / 10)) if most == most else 1


def safe(text: object) -> str:
    return html.escape(printable(text))
