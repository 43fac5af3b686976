"""What a page is made of: sections with plots and tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from plotly import graph_objects as go

from tune_resnet.results.chart_style import COLOURS, symbol_of


@dataclass(frozen=True)
class Plot:
    """A Plotly figure as plain JSON values, and what it shows, for who cannot see it.

    Where the figure has `views`, each with a label, the y values of all traces and a y axis, the page lets one choose.
    """

    label: str
    figure: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """`marks`: of each row `winner`, `reference` or nothing; no marks: of none."""

    columns: list[str]
    rows: list[list[str]]
    marks: list[str] = field(default_factory=list)
    sortable: bool = False


@dataclass(frozen=True)
class Mark:
    """A legend's entry."""

    name: str
    symbol: str
    colour: str


@dataclass(frozen=True)
class Section:
    """`folded`: for experts, opened by a click."""

    title: str
    note: str = ""
    plots: list[Plot] = field(default_factory=list)
    table: Table | None = None
    commands: list[str] = field(default_factory=list)
    legend: list[Mark] = field(default_factory=list)  # of all plots, instead of one in each
    folded: bool = False


def plot_of(label: str, figure: go.Figure, views: Sequence[dict[str, Any]] = ()) -> Plot:
    plain = json.loads(figure.to_json())
    plain["layout"].pop("template", None)  # the page has its own colours
    return Plot(label, {**plain, "views": list(views)} if views else plain)


def legend_of(roles: Sequence[str]) -> list[Mark]:
    """Of the roles that there are, the winner first."""
    return [Mark(role, symbol_of(role), COLOURS[role]) for role in reversed(COLOURS) if role in roles]
