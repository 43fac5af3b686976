"""The report's plots, drawn with Plotly from `chart_data`'s DataFrames.

Colours are Okabe and Ito's, which people with any colour vision tell apart, toned to stand out on white and on black. A
trace whose `meta` is `ink` takes the page's text colour. Text from a run directory is escaped: Plotly reads some HTML.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go

from tune_resnet._text import printable
from tune_resnet.results.chart_data import CATEGORY, LOG, REFERENCE, WINNER
from tune_resnet.runs.tables import FAILED, FINISHED, INTERRUPTED, RUNNING, STOPPED

COLOURS = {
    STOPPED: "#8a8f98",
    FAILED: "#a0522d",
    INTERRUPTED: "#b8629b",
    RUNNING: "#009e73",
    FINISHED: "#2f86c5",
    REFERENCE: "ink",
    WINNER: "#e06a00",
}  # in the order of drawing
_SYMBOLS = {REFERENCE: "diamond-open", WINNER: "star", FAILED: "x", STOPPED: "circle-open"}
_PERCENT = ".1%"
_BAR = 0.7  # of a row's height


def learning_curves_chart(curves: pd.DataFrame) -> go.Figure:
    """Accuracy over epochs: one trace a role, its trials apart by gaps, so that a thousand are drawn at once."""
    figure = go.Figure()
    for role, rows in _by_role(curves):
        gaps = rows.drop_duplicates("trial", keep="last").assign(accuracy=np.nan)
        with_gaps = pd.concat([rows, gaps]).sort_values(["trial", "epoch"], kind="stable")
        bold = role in (REFERENCE, WINNER)
        trace = go.Scatter(
            x=with_gaps["epoch"],
            y=with_gaps["accuracy"],
            customdata=with_gaps[["trial"]],
            mode="lines+markers",
            marker_size=7 if bold else 4,
            line={"width": 3 if bold else 1.2, "dash": "dash" if role == REFERENCE else "solid"},
            opacity=1 if bold else 0.75,
            hovertemplate=f"trial %{{customdata[0]}} ({role})<br>epoch %{{x}}: %{{y:{_PERCENT}}}<extra></extra>",
        )
        figure.add_trace(_coloured(trace, role))
    figure.update_layout(xaxis={"title": "epoch", "dtick": _tick(curves["epoch"].max())})
    figure.update_yaxes(title="accuracy", tickformat=".0%")
    return figure


def parallel_chart(trials: pd.DataFrame, places: pd.DataFrame) -> go.Figure:
    """Each trial with an accuracy as a line over the hyperparameters, at its `places` in [0, 1]; the best is orange."""
    known, space = trials.dropna(subset=["accuracy"]), [str(name) for name in places]
    axes = [*space, "accuracy"]
    scaled = places.loc[known.index].assign(accuracy=known["accuracy"].rank(pct=True))
    figure = go.Figure()
    for role, rows in _by_role(known):
        x = [name for _ in range(len(rows)) for name in [*axes, None]]
        y = [value for row in scaled.loc[rows.index, axes].to_numpy() for value in [*row, None]]
        labels = [label for row in rows.to_dict("records") for label in [_configuration(row, space)] * (len(axes) + 1)]
        bold = role in (REFERENCE, WINNER)
        trace = go.Scatter(
            x=x, y=y, text=labels, mode="lines+markers", hovertemplate="%{text}<extra></extra>",
            marker_size=7 if bold else 4, line_width=3 if bold else 1, opacity=1 if bold else 0.6,
            line_dash="dash" if role == REFERENCE else "solid",
        )  # fmt: skip
        figure.add_trace(_coloured(trace, role))
    for name in axes:
        order = known[name].loc[scaled[name].sort_values().dropna().index]
        for value, place, anchor in ((order.iloc[0], 0, "top"), (order.iloc[-1], 1, "bottom")) if len(order) else ():
            text = f"{value:{_PERCENT}}" if name == "accuracy" else _short(value)
            figure.add_annotation(x=name, y=place, text=text, showarrow=False, yanchor=anchor, yshift=place * 16 - 8)
        figure.add_shape(type="line", x0=name, x1=name, y0=0, y1=1, line_color="#8a8f98", line_width=1, layer="below")
    figure.update_xaxes(type="category", categoryarray=axes, showgrid=False)
    figure.update_yaxes(visible=False, range=[-0.12, 1.12])
    return figure


def slice_chart(trials: pd.DataFrame, name: str, region: pd.DataFrame, scale: str = LOG) -> go.Figure:
    """Accuracy of the finished trials over one hyperparameter, on an axis of that scale; the good region shaded."""
    figure, at = go.Figure(), "%{x}" if scale == CATEGORY else "%{x:.3g}"
    for role, rows in _by_role(trials):
        bold = role in (REFERENCE, WINNER)
        trace = go.Scatter(
            x=rows[name].map(str) if scale == CATEGORY else rows[name],
            y=rows["accuracy"],
            customdata=rows[["trial"]],
            mode="markers",
            marker={"size": 13 if bold else 8, **_symbol(role)},
            hovertemplate=f"trial %{{customdata[0]}} ({role})<br>{name} {at}<br>%{{y:{_PERCENT}}}<extra></extra>",
        )
        figure.add_trace(_coloured(trace, role))
    if name in region.index:
        low, high = region.loc[name, ["low", "high"]]
        figure.add_vrect(x0=low, x1=high, fillcolor=COLOURS[WINNER], opacity=0.15, line_width=0)
    ticks = [digit * 10.0**power for power in range(-9, 4) for digit in (1, 2, 5)]
    figure.update_xaxes(type=scale, title=name)
    if scale == LOG:
        figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(title="accuracy", tickformat=_PERCENT)
    return figure


def importance_chart(shares: pd.Series) -> go.Figure:
    """Each hyperparameter's share."""
    shares = shares.iloc[::-1]
    bars = go.Bar(
        x=shares,
        y=shares.index,
        orientation="h",
        marker_color=COLOURS[FINISHED],
        text=[f"{share:.0%}" for share in shares],
        textposition="outside",
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_layout(height=240)
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    return figure


def judged_chart(judged: pd.DataFrame, signal: str) -> go.Figure:
    """The signals that trials were judged by, a row a rung: who was stopped and who went on."""
    figure = go.Figure()
    for fate, role in (("went on", FINISHED), ("stopped", STOPPED)):
        rows = judged[judged["fate"] == fate]
        short = rows["short_by"].map(lambda by: f"<br>short by {by:.1%}" if by == by else "")
        trace = go.Scatter(
            x=rows["signal"],
            # Side by side within the row, in an order that says nothing.
            y=rows.groupby("epoch").cumcount() % 7 / 14 - 0.2 + rows["epoch"].rank(method="dense"),
            customdata=rows[["trial", "epoch"]].assign(short=short),
            mode="markers",
            name=fate,
            marker={"size": 9, "color": COLOURS[role], **_symbol(role)},
            hovertemplate=f"trial %{{customdata[0]}}, epoch %{{customdata[1]}}<br>%{{x:.4f}}%{{customdata[2]}}"
            f"<extra>{fate}</extra>",
        )
        figure.add_trace(trace)
    epochs = sorted(judged["epoch"].unique())
    figure.update_xaxes(title=signal)
    figure.update_yaxes(
        tickvals=list(range(1, len(epochs) + 1)),
        ticktext=[f"epoch {e}" for e in epochs],
        range=[0.4, len(epochs) + 0.6],
    )
    return figure


def rate_chart(rates: pd.DataFrame) -> go.Figure:
    """The learning rates of winner and reference."""
    figure = go.Figure()
    for role, rows in _by_role(rates):
        dash = "dash" if role == REFERENCE else "solid"
        trace = go.Scatter(
            x=rows["epoch"], y=rows["lr"], mode="lines", line={"width": 3, "dash": dash},
            hovertemplate="epoch %{x:.1f}: %{y:.3g}",
        )  # fmt: skip
        figure.add_trace(_coloured(trace, role))
    figure.update_xaxes(title="epochs done")
    figure.update_yaxes(title="learning rate", rangemode="tozero")
    return figure


def timeline_chart(timeline: pd.DataFrame) -> go.Figure:
    """Which worker trained which trial, when."""
    figure = go.Figure()
    for role, rows in _by_role(timeline):
        trace = go.Bar(
            base=rows["start"],
            x=rows["end"] - rows["start"],
            y=[_safe(worker) for worker in rows["worker"]],
            orientation="h",
            width=_BAR,
            customdata=rows[["trial", "end"]],
            hovertemplate=f"trial %{{customdata[0]}} ({role})<br>%{{base:.1f}} s to %{{customdata[1]:.1f}} s"
            "<extra></extra>",
        )
        figure.add_trace(_coloured(trace, role))
    figure.update_layout(barmode="overlay", height=40 * timeline["worker"].nunique() + 130)
    figure.update_xaxes(title="seconds since the first trial's start")
    figure.update_yaxes(type="category", automargin=True)
    return figure


def runs_chart(progress: pd.DataFrame) -> go.Figure:
    """The best accuracy of each run over the epochs that it has spent."""
    figure = go.Figure()
    for label, rows in progress.groupby("run", sort=False):
        trace = go.Scatter(
            x=rows["epochs"], y=rows["best"], mode="lines+markers", line_shape="hv", name=_safe(label),
            hovertemplate=f"after %{{x}} epochs: %{{y:{_PERCENT}}}",
        )  # fmt: skip
        figure.add_trace(trace)
    figure.update_layout(colorway=[colour for colour in COLOURS.values() if colour != "ink"][::-1])
    figure.update_xaxes(title="epochs trained, over all trials", rangemode="tozero")
    figure.update_yaxes(title="best finished trial", tickformat=_PERCENT)
    return figure


def _by_role(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each role that there is, in the order of drawing."""
    return [(role, rows[rows["role"] == role]) for role in COLOURS if (rows["role"] == role).any()]


def _coloured(trace: go.Scatter | go.Bar, role: str) -> go.Scatter | go.Bar:
    trace.name = role
    trace.marker.color = COLOURS[role] if role != REFERENCE else None
    trace.meta = "ink" if role == REFERENCE else None
    if isinstance(trace, go.Scatter):
        trace.line.color = trace.marker.color
    return trace


def _symbol(role: str) -> dict[str, object]:
    symbol = _SYMBOLS.get(role, "circle")
    return {"symbol": symbol, "line_width": 2 * symbol.endswith("-open")}


def _configuration(row: Mapping[Any, Any], space: list[str]) -> str:
    values = "<br>".join(f"{name} {_short(row[name], 3)}" for name in space)
    return f"trial {row['trial']}: {row['accuracy']:{_PERCENT}}<br>{values}"


def _short(value: object, digits: int = 2) -> str:
    return f"{value:.{digits}g}" if isinstance(value, float) else _safe(value)


def _tick(most: float) -> int:
    """Whole epochs between two labels of an axis."""
    return max(1, round(most / 10)) if most == most else 1


def _safe(text: object) -> str:
    return html.escape(printable(text))
