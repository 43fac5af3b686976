"""The report's plots for experts: early stopping, learning rates, time."""

from __future__ import annotations

import pandas as pd
from plotly import graph_objects as go

from tune_resnet.results.chart_style import COLOURS, by_role, coloured, safe, symbol
from tune_resnet.runs.tables import FINISHED, REFERENCE, STOPPED

_BAR = 0.7  # of a row's height


def judged_chart(judged: pd.DataFrame, cuts: pd.Series, signal: str) -> go.Figure:
    """The signals that trials were judged by, a row a rung: who was stopped and who went on, and the last cut between
    them, `cuts` by epoch."""
    figure = go.Figure()
    rows_of = {epoch: row for row, epoch in enumerate(sorted(judged["epoch"].unique()), start=1)}
    for fate, role in (("went on", FINISHED), ("stopped", STOPPED)):
        rows = judged[judged["fate"] == fate]
        short = rows["short_by"].map(lambda by: f"<br>short by {by:.1%}" if by == by else "")
        trace = go.Scatter(
            x=rows["signal"],
            # Side by side within the row, in an order that says nothing.
            y=rows.groupby("epoch").cumcount() % 7 / 14 - 0.2 + rows["epoch"].map(rows_of),
            text=[f"trial {trial}, epoch {epoch}" for trial, epoch in rows[["trial", "epoch"]].to_numpy()] + short,
            mode="markers",
            name=fate,
            marker={"size": 9, "color": COLOURS[role], **symbol(role)},
            hovertemplate=f"%{{text}}<br>%{{x:.4f}}<extra>{fate}</extra>",
        )
        figure.add_trace(trace)
    shown = cuts[cuts.index.isin(list(rows_of))]
    ends = [value for epoch in shown.index for value in (rows_of[epoch] - 0.4, rows_of[epoch] + 0.4, None)]
    figure.add_scatter(
        x=[value for cut in shown for value in (cut, cut, None)], y=ends, mode="lines", name="the cut at the end",
        line={"color": COLOURS["winner"], "width": 2}, hovertemplate="%{x:.4f}<extra>the cut at the end</extra>",
    )  # fmt: skip
    figure.update_xaxes(title=signal)
    figure.update_yaxes(
        tickvals=list(rows_of.values()),
        ticktext=[f"epoch {epoch}" for epoch in rows_of],
        range=[0.4, len(rows_of) + 0.6],
    )
    return figure


def rate_chart(rates: pd.DataFrame) -> go.Figure:
    """The learning rates of winner and reference."""
    figure = go.Figure()
    for role, rows in by_role(rates):
        dash = "dash" if role == REFERENCE else "solid"
        trace = go.Scatter(
            x=rows["epoch"], y=rows["lr"], mode="lines", line={"width": 3, "dash": dash},
            hovertemplate="epoch %{x:.1f}: %{y:.3g}",
        )  # fmt: skip
        figure.add_trace(coloured(trace, role))
    figure.update_xaxes(title="epochs done")
    figure.update_yaxes(title="learning rate", rangemode="tozero")
    return figure


def timeline_chart(timeline: pd.DataFrame) -> go.Figure:
    """Which worker trained which trial, when."""
    figure = go.Figure()
    for role, rows in by_role(timeline):
        trace = go.Bar(
            base=rows["start"],
            x=rows["end"] - rows["start"],
            y=rows["process"],
            orientation="h",
            width=_BAR,
            text=[
                f"trial {row.trial} ({role}) on {safe(row.worker)}<br>to {row.end:.1f} s" for row in rows.itertuples()
            ],
            textposition="none",
            hovertemplate="%{text}, from %{base:.1f} s<extra></extra>",
        )
        figure.add_trace(coloured(trace, role))
    figure.update_layout(barmode="overlay", height=40 * timeline["process"].nunique() + 130)
    figure.update_xaxes(title="seconds since the first trial's start")
    figure.update_yaxes(type="category", automargin=True, autorange="reversed")
    return figure
