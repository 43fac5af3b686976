"""The report's main plots, drawn with Plotly from `chart_data`'s DataFrames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go

from tune_resnet.results.chart_data import CURVES
from tune_resnet.results.chart_style import COLOURS, GREY, PERCENT, by_role, coloured, is_bold, safe, symbol, tick
from tune_resnet.results.confirmation import Confirmation
from tune_resnet.runs.tables import FINISHED, REFERENCE, WINNER


def learning_curves_chart(
    curves: pd.DataFrame, texts: pd.Series, rungs: tuple[int, ...], shown: dict[str, list[float]], score: str
) -> tuple[go.Figure, list[dict[str, Any]]]:
    """What is `shown`, with the range of its axis, over epochs; and the views that choose among it.

    One trace a role, its trials apart by gaps, so that a thousand are drawn at once. `texts`: of a hover, by trial;
    `rungs`: the epochs at which trials are stopped; `score`: what judges, for a person.
    """
    figure = go.Figure()
    values: dict[str, list[list[float | None]]] = {name: [] for name in shown}
    first = next(iter(shown))
    for role, rows in by_role(curves):
        gaps = rows.drop_duplicates("trial", keep="last").assign(**dict.fromkeys(shown, np.nan))
        with_gaps = pd.concat([rows, gaps]).sort_values(["trial", "epoch"], kind="stable")
        for name in shown:
            values[name].append([round(value, 5) if math.isfinite(value) else None for value in with_gaps[name]])
        bold = is_bold(role)
        trace = go.Scatter(
            x=with_gaps["epoch"],
            y=values[first][-1],
            text=with_gaps["trial"].map(texts),
            mode="lines+markers",
            marker_size=7 if bold else 4,
            line={"width": 3 if bold else 1.2, "dash": "dash" if role == REFERENCE else "solid"},
            opacity=1 if bold else 0.6,
            hovertemplate="epoch %{x}: %{y}<br>%{text}<extra></extra>",
        )
        figure.add_trace(coloured(trace, role))
    for epoch in rungs:
        figure.add_vline(x=epoch, line_dash="dot", line_color=GREY, line_width=1.5)
    if rungs:
        figure.add_annotation(
            x=rungs[-1], y=0, yref="paper", text="weak ones stop", showarrow=False, xanchor="left", yanchor="bottom"
        )
    figure.update_xaxes(title="epoch", dtick=tick(curves["epoch"].max()))
    axes = {name: _curve_axis(name, limits, score) for name, limits in shown.items()}
    figure.update_yaxes(**axes[first])
    views = [{"label": axes[name]["title"]["text"], "y": values[name], "yaxis": axes[name]} for name in shown]
    return figure, views if len(views) > 1 else []


def _curve_axis(name: str, limits: list[float], score: str) -> dict[str, Any]:
    """The axis of one of `CURVES`: the score as a share, a loss as it is."""
    if name == CURVES[0]:
        return {"title": {"text": score}, "tickformat": ".0%", "hoverformat": PERCENT, "range": limits}
    return {"title": {"text": name}, "tickformat": None, "hoverformat": ".4f", "range": limits}


def pairs_chart(confirmation: Confirmation) -> go.Figure:
    """What both have reached on the test images in each pair of trainings, joined by a line."""
    pairs, figure = confirmation.pairs, go.Figure()
    seeds = [f"seed {seed}" for seed in pairs.index]
    joined = [value for pair in pairs[[REFERENCE, WINNER]].to_numpy() for value in (*pair, None)]
    at = [value for seed in seeds for value in (seed, seed, None)]
    figure.add_scatter(
        x=at, y=joined, mode="lines", line={"color": GREY, "width": 2}, showlegend=False, hoverinfo="skip"
    )
    for role in (REFERENCE, WINNER):
        trace = go.Scatter(
            x=seeds, y=pairs[role], mode="markers", marker={"size": 12, **symbol(role)},
            hovertemplate="%{x}: %{y:.2%}",
        )  # fmt: skip
        figure.add_trace(coloured(trace, role))
    figure.update_yaxes(title=f"test {confirmation.search.judged_by}", tickformat=PERCENT)
    return figure


def differences_chart(confirmation: Confirmation) -> go.Figure:
    """Each pair's difference, the mean and its interval, beside no difference at all."""
    pairs, result, figure = confirmation.pairs, confirmation.result, go.Figure()
    seeds = [f"seed {seed}" for seed in pairs.index]
    figure.add_scatter(
        x=seeds, y=100 * (pairs[WINNER] - pairs[REFERENCE]), mode="markers", showlegend=False,
        marker={"size": 10, "color": COLOURS[WINNER]}, hovertemplate="%{x}: %{y:+.2f} points<extra></extra>",
    )  # fmt: skip
    figure.add_hline(y=0, line_color=GREY, line_width=2)
    if result is not None:
        mean = f"mean {result.mean:+.2f}"
        figure.add_hline(y=result.mean, line_color=COLOURS[WINNER], annotation_text=mean, line_width=2)
        if result.low is not None:
            colour = COLOURS[WINNER]
            figure.add_hrect(y0=result.low, y1=result.high, fillcolor=colour, opacity=0.15, line_width=0)
    figure.update_yaxes(title=f"winner over reference, points{confirmation.search.of_what}", rangemode="tozero")
    return figure


def importance_chart(shares: pd.DataFrame) -> go.Figure:
    """Each hyperparameter's share, with its interval."""
    shares = shares.iloc[::-1]
    interval = " (%{customdata[0]:.0%} to %{customdata[1]:.0%})" if shares["low"].notna().all() else ""
    bars = go.Bar(
        x=shares["share"],
        y=shares.index,
        orientation="h",
        marker_color=COLOURS[FINISHED],
        error_x={
            "type": "data",
            "array": shares["high"] - shares["share"],
            "arrayminus": shares["share"] - shares["low"],
            "color": GREY,
        },
        customdata=shares[["low", "high"]],
        hovertemplate=f"%{{y}}: %{{x:.0%}}{interval}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_layout(height=60 + 50 * len(shares))
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    return figure


def runs_chart(progress: pd.DataFrame) -> go.Figure:
    """The score of each run's winner so far over the epochs that it has spent."""
    figure = go.Figure()
    for label, rows in progress.groupby("run", sort=False):
        trace = go.Scatter(
            x=rows["epochs"], y=rows["best"], mode="lines+markers", line_shape="hv", name=safe(label),
            hovertemplate=f"after %{{x}} epochs: %{{y:{PERCENT}}}",
        )  # fmt: skip
        figure.add_trace(trace)
    figure.update_layout(colorway=[colour for colour in COLOURS.values() if colour != "ink"][::-1])
    figure.update_xaxes(title="epochs trained, over all trials", rangemode="tozero")
    figure.update_yaxes(title="winner so far", tickformat=PERCENT)
    return figure
