"""The report's plots of accuracies over the space: a hyperparameter at a time, and all together."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from plotly import graph_objects as go

from tune_resnet._text import hyperparameter
from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.results.chart_data import CATEGORY, LOG, axis_bounds, scale
from tune_resnet.results.chart_style import COLOURS, GREY, PERCENT, by_role, coloured, is_bold, safe, symbol
from tune_resnet.runs.tables import FINISHED, REFERENCE, WINNER

_MARGIN = 0.06  # of an axis, beyond the bounds
_LABELS = 6  # choices at an axis, at the most
_BELOW = -0.14  # where lines end whose accuracies cannot be compared: below what stands at the axes
_WHOLE = 12  # whole numbers at an axis, at the most
_DECADES = 1.2  # from which on only powers of ten stand at an axis


def slice_chart(
    trials: pd.DataFrame,
    name: str,
    domain: Domain | Choices,
    region: pd.DataFrame,
    lowest: float,
    highest: float,
    score: str,
) -> go.Figure:
    """The `score`, accuracy say, over one hyperparameter, the bounds of its domain drawn, the good region shaded.

    `lowest`, `highest`: accuracies of trials with all their epochs; those that have had fewer, and cannot be compared
    with them, are faint marks at the bottom.
    """
    figure, kind = go.Figure(), scale(trials[name], domain)
    room = max(highest - lowest, 0.01)
    bottom = lowest - 0.15 * room
    for role, rows in by_role(trials):
        bold, ended = is_bold(role), rows["complete"]
        trace = go.Scatter(
            x=rows[name].map(str) if kind == CATEGORY else rows[name],
            y=rows["accuracy"].where(ended, bottom),
            text=rows["text"],
            mode="markers",
            marker={"size": 13 if bold else 8, **symbol(role)},
            opacity=1 if bold else 0.75 if role == FINISHED else 0.4,
            hovertemplate="%{text}<extra></extra>",
        )
        figure.add_trace(coloured(trace, role))
    if name in region.index:
        low, high = region.loc[name, ["low", "high"]]
        figure.add_vrect(x0=low, x1=high, fillcolor=COLOURS[WINNER], opacity=0.15, line_width=0)
    if isinstance(domain, Domain):
        for bound in (domain.low, domain.high):
            figure.add_vline(x=bound, line_dash="dot", line_color=GREY, line_width=1.5)
    figure.update_layout(showlegend=False, height=300)
    figure.update_xaxes(title=safe(name), **_axis(trials[name], domain, kind))
    figure.update_yaxes(title=score, tickformat=PERCENT, range=[bottom - 0.08 * room, highest + 0.12 * room])
    return figure


def _axis(values: pd.Series, domain: Domain | Choices, kind: str) -> dict[str, object]:
    """The type, range and ticks of a hyperparameter's axis."""
    if kind == CATEGORY and isinstance(domain, Choices):
        names = [str(choice) for choice in domain.choices]
        return {"type": kind, "categoryorder": "array", "categoryarray": names}
    low, high = axis_bounds(values, domain)
    if kind == LOG:
        low, high = math.log10(low), math.log10(high)
        digits = (1,) if high - low > _DECADES else (1, 2, 5)
        powers = range(math.floor(low) - 1, math.ceil(high) + 2)
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        marks: dict[str, object] = {"tickvals": ticks, "ticktext": [_power(value) for value in ticks]}
    else:
        whole = pd.api.types.is_integer_dtype(values) and high - low <= _WHOLE
        marks = {"dtick": 1} if whole else {"nticks": 6}
    margin = _MARGIN * (high - low)
    return {"type": kind, "range": [low - margin, high + margin], **marks}


def _power(value: float) -> str:
    """A number at a logarithmic axis."""
    return f"{value:g}" if value >= 1e-3 else f"10<sup>{math.log10(value):.0f}</sup>" if _is_power(value) else ""


def _is_power(value: float) -> bool:
    return math.isclose(math.log10(value), round(math.log10(value)))


def parallel_chart(
    trials: pd.DataFrame,
    places: pd.DataFrame,
    space: Space,
    lowest: float,
    highest: float,
    score: str,
) -> go.Figure:
    """Each trial as a line over the hyperparameters, at its `places` in [0, 1], to its `score` on an axis from `lowest`
    to `highest`, or where it has not had all its epochs to the bottom; the best is orange."""
    axes, figure = [*space, score], go.Figure()
    shares = (trials["accuracy"] - lowest) / max(highest - lowest, 1e-9)
    scaled = places.assign(**{score: shares.where(trials["complete"], _BELOW)})
    for role, rows in by_role(trials):
        bold = is_bold(role)
        trace = go.Scatter(
            x=[name for _ in range(len(rows)) for name in (*axes, None)],
            y=[value for row in scaled.loc[rows.index, axes].round(4).to_numpy() for value in (*row, None)],
            text=[text for text in rows["text"] for _ in range(len(axes) + 1)],
            mode="lines+markers",
            hovertemplate="%{text}<extra></extra>",
            marker_size=7 if bold else 4,
            line={"width": 3 if bold else 1, "dash": "dash" if role == REFERENCE else "solid"},
            opacity=1 if bold else 0.6 if role == FINISHED else 0.3,
        )
        figure.add_trace(coloured(trace, role))
    for name, domain in space.items():
        _label(figure, name, _labels(trials[name], name, domain))
    _label(figure, score, {0.0: f"{lowest:{PERCENT}}", 1.0: f"{highest:{PERCENT}}"})
    figure.update_layout(showlegend=False)
    figure.update_xaxes(type="category", categoryarray=axes, showgrid=False)
    figure.update_yaxes(visible=False, range=[_BELOW - 0.05, 1.12])
    return figure


def _labels(values: pd.Series, name: str, domain: Domain | Choices) -> dict[float, str]:
    """What stands at an axis, by its place in [0, 1]: the bounds, or each choice."""
    if isinstance(domain, Domain):
        low, high = axis_bounds(values, domain)
        return {0.0: hyperparameter(name, low), 1.0: hyperparameter(name, high)}
    if scale(values, domain) == LOG:
        return {0.0: hyperparameter(name, min(domain.choices)), 1.0: hyperparameter(name, max(domain.choices))}
    last = len(domain.choices) - 1
    shown = domain.choices if last < _LABELS else (domain.choices[0], domain.choices[-1])
    return {domain.choices.index(choice) / last: safe(choice) for choice in shown}


def _label(figure: go.Figure, name: str, texts: Mapping[float, str]) -> None:
    """An axis with what stands at it: below its lower end, above its upper end, and beside it between them."""
    for place, text in texts.items():
        anchor = {0.0: "top", 1.0: "bottom"}.get(place, "middle")
        between = anchor == "middle"
        figure.add_annotation(
            x=name, y=place, text=text, showarrow=False, yanchor=anchor, xanchor="left" if between else "center",
            xshift=6 * between,
        )  # fmt: skip
    figure.add_shape(type="line", x0=name, x1=name, y0=0, y1=1, line_color=GREY, line_width=1, layer="below")
