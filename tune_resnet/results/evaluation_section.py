"""The final model on the test images, as parts of a run's page."""

from __future__ import annotations

import base64

import numpy as np
import pandas as pd
from plotly import graph_objects as go

from tune_resnet._files import read_regular
from tune_resnet.results.chart_style import COLOURS
from tune_resnet.results.evaluation import (
    CLASS_COLUMNS,
    class_rows,
    confusion_matrix,
    evaluated,
    evaluation_sentences,
    predictions,
    reliability,
)
from tune_resnet.results.page_parts import Section, Table, Thumbnail, plot_of
from tune_resnet.runs.directory import RunDirectory
from tune_resnet.runs.load import RunFrames
from tune_resnet.runs.predictions import mistake_file, mistakes
from tune_resnet.runs.tables import FINISHED

_NUMBERED = 12  # classes at most whose confusion matrix has its numbers in it
_LISTED = 50  # classes in the table


def by_class(run: RunFrames) -> Section | None:
    """Precision, recall and F1 of each class, what is taken for what, and how far confidence can be trusted."""
    found = predictions(run)
    if found is None:
        return None
    rows = class_rows(found)
    some = "" if len(rows) <= _LISTED else f" The table has the {_LISTED} of {len(rows):,} with the lowest F1."
    plots = [
        plot_of("Test images by class and by what they are taken for", confusion_chart(confusion_matrix(found))),
        plot_of("How often the model is right by how sure it is", reliability_chart(reliability(found))),
    ]
    table = Table(list(CLASS_COLUMNS), rows[:_LISTED], sortable=True)
    return Section("Class by class", " ".join(evaluation_sentences(found)) + some, plots, table)


def most_wrong(run: RunFrames) -> Section | None:
    """The images that the model gets most confidently wrong."""
    found = predictions(run)
    if found is None:
        return None
    directory = RunDirectory(evaluated(run).path)
    thumbnails = []
    for row in mistakes(found).itertuples():
        try:
            png = read_regular(mistake_file(directory, int(str(row.Index))))
        except OSError:  # the run was copied without them
            continue
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        words = f"{row.label}, taken for {row.predicted} ({row.confidence:.1%}): {row.image}"
        thumbnails.append(Thumbnail(source, words))
    note = "The test images that the model gets wrong with the most confidence, as it saw them."
    return Section("Most confidently wrong", note, thumbnails=thumbnails) if thumbnails else None


EVALUATION_PARTS = (by_class, most_wrong)


def confusion_chart(matrix: pd.DataFrame) -> go.Figure:
    """A row a class: blue what is right, orange what it is taken for; the darker, the more."""
    counts = matrix.to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    on_diagonal = np.eye(len(matrix), dtype=bool)
    figure, names = go.Figure(), [str(name) for name in matrix.index]
    for cells, colour in ((on_diagonal, "47,134,197"), (~on_diagonal, "224,106,0")):
        figure.add_trace(
            go.Heatmap(
                z=np.where(cells, shares, np.nan),
                x=names,
                y=names,
                customdata=counts,
                # Half transparent, so that the numbers stand out on white and on black.
                colorscale=[[0, f"rgba({colour},0)"], [1, f"rgba({colour},0.55)"]],
                zmin=0,
                zmax=max(float(shares[cells].max(initial=0)), 1e-9),
                showscale=False,
                hoverongaps=False,
                hovertemplate="%{y}, taken for %{x}: %{customdata:,} (%{z:.1%})<extra></extra>",
            )
        )
    if len(names) <= _NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                figure.add_annotation(x=names[column], y=names[row], text=f"{count:,}", showarrow=False, font_size=11)
    figure.update_xaxes(title="taken for", type="category", showgrid=False)
    figure.update_yaxes(title="class", type="category", showgrid=False, autorange="reversed")
    return figure


def reliability_chart(bins: pd.DataFrame) -> go.Figure:
    """Accuracy over confidence, where a calibrated model is on the diagonal; the larger a mark, the more images."""
    diagonal = go.Scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dash", "width": 1}, meta="ink", name="calibrated",
        hoverinfo="skip",
    )  # fmt: skip
    marks = go.Scatter(
        x=bins["confidence"],
        y=bins["accuracy"],
        customdata=bins[["images"]],
        mode="lines+markers",
        name="the model",
        marker_size=6 + 18 * np.sqrt(bins["images"] / bins["images"].max()),
        marker_color=COLOURS[FINISHED],
        line_color=COLOURS[FINISHED],
        hovertemplate="%{x:.1%} sure, %{y:.1%} right<br>%{customdata[0]:,} images<extra></extra>",
    )
    figure = go.Figure([diagonal, marks])
    figure.update_xaxes(title="confidence", tickformat=".0%", range=[0, 1.05])
    figure.update_yaxes(title="accuracy", tickformat=".0%", range=[0, 1.05])
    return figure
