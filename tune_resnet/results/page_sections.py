"""The parts of a run's page: each says one thing, by a plot, a table, a note."""

from __future__ import annotations

import math

import pandas as pd

from tune_resnet._text import hyperparameter, percent, printable
from tune_resnet.hpo.ranking import is_smoothed
from tune_resnet.hpo.stopping import rung_epochs, usual_last_rung
from tune_resnet.results import chart_data, charts, space_charts
from tune_resnet.results.chart_style import described
from tune_resnet.results.comparison import compare_to_reference
from tune_resnet.results.confirmation import confirmation_sentence, confirmations
from tune_resnet.results.importance import MAX_RESAMPLED, importance_intervals
from tune_resnet.results.page_details import DETAILS
from tune_resnet.results.page_parts import Section, Table, legend_of, plot_of
from tune_resnet.runs.directory import SEARCH
from tune_resnet.runs.load import RunFrames, once_per_run
from tune_resnet.runs.reading import records
from tune_resnet.runs.tables import FAILED, REFERENCE, REFERENCE_TRIAL, WINNER

_TOP = 10  # rows of a table
_MIN_COMPARABLE = 2  # trials, for a plot over the space


def _pairs(run: RunFrames) -> Section | None:
    plots, told = [], []
    for one in confirmations(run):
        if len(one.pairs):
            told.append(confirmation_sentence(one))
            name = f"{one.name}{one.place}"
            plots.append(
                plot_of(
                    f"Test {one.search.judged_by} of {name} and the reference, pair by pair", charts.pairs_chart(one)
                )
            )
            plots.append(plot_of(f"Differences of the pairs of {name}", charts.differences_chart(one)))
    told.append("A pair is trained with one fresh seed. Shaded: the 95% interval of the mean difference.")
    return Section("The confirmation, pair by pair", " ".join(told), plots) if plots else None


def _curves(run: RunFrames) -> Section | None:
    trials = _shown(run)
    curves = chart_data.learning_curves(run)
    curves = curves[curves["trial"].isin(trials["trial"])].dropna(subset=["accuracy"])
    if curves.empty:
        return None
    scheduler, epochs, score = run.spec.scheduler, run.spec.train.epochs, run.spec.search.judged_by
    first = min(usual_last_rung(epochs), int(curves["epoch"].max()))
    ranges = {name: chart_data.useful_range(curves, name, first) for name in chart_data.CURVES}
    shown = {name: limits for name, limits in ranges.items() if limits}
    texts = trials.set_index("trial")["text"]
    figure, views = charts.learning_curves_chart(curves, texts, rung_epochs(scheduler, epochs), shown, score)
    note = f"On the {compare_to_reference(run).judged_on} images after each epoch, one seed per trial.{_sampled(run)}"
    return Section("Learning curves", note, [plot_of("Learning curves of the trials", figure, views)])


def _trials(run: RunFrames) -> Section | None:
    trials = chart_data.configurations(run)
    shown = trials[(trials.index < _TOP) | (trials["trial"] == REFERENCE_TRIAL)]
    rows = [
        [
            str(row["trial"]),
            row["role"],
            f"{row['epochs']}/{run.spec.train.epochs}",
            percent(row["accuracy"]),
            percent(row["estimate"]),
            *(hyperparameter(name, row[name]) for name in run.spec.space),
        ]
        for row in records(shown)
    ]
    score = run.spec.search.judged_by
    columns = ["trial", "state", "epochs", score, "estimate", *run.spec.space]
    images = f"{compare_to_reference(run).judged_on} images"
    note = f"By estimate: what accuracy and loss on the {images} say together. The winner has the highest."
    if not is_smoothed(run):
        note = f"By {score} on the {images}, which is also the estimate. The winner has the highest."
    if run.kind != SEARCH:
        note = ""
    marks = [role if role in (WINNER, REFERENCE) else "" for role in shown["role"]]
    return Section("Best trials", note, table=Table(columns, rows, marks, sortable=True)) if rows else None


def _together(run: RunFrames) -> Section | None:
    trials, lowest, highest = _comparable(run)
    if len(trials) < _MIN_COMPARABLE or math.isnan(lowest):
        return None
    space, score = run.spec.space, run.spec.search.judged_by
    places = chart_data.positions(trials, space)
    figure = space_charts.parallel_chart(trials, places, space, lowest, highest, score)
    note = (
        f"Each line is a trial. The axes span the space, and the last one has the {score} of the trials that trained "
        f"all epochs. Faint lines that end below it: trials that were stopped or lie far below.{_sampled(run)}"
    )
    plot = plot_of("All trials over the hyperparameters", figure)
    return Section("Hyperparameters together", note, [plot], legend=legend_of(list(trials["role"])))


def _slices(run: RunFrames) -> Section | None:
    trials, lowest, highest = _comparable(run)
    region, score = chart_data.good_region(run), run.spec.search.judged_by
    if trials["complete"].sum() < _MIN_COMPARABLE:
        return None
    plots = [
        plot_of(
            f"{score[0].upper()}{score[1:]} over {printable(name)}",
            space_charts.slice_chart(trials, name, domain, region, lowest, highest, score),
        )
        for name, domain in run.spec.space.items()
    ]
    note = "Dotted: the bounds of the space. Faint, at the bottom: trials that were stopped or lie far below."
    note += " Shaded: the range of the best quarter, by estimate." if len(region) else ""
    legend = legend_of(list(trials["role"]))
    return Section("Hyperparameters one by one", note + _sampled(run), plots, legend=legend)


def _importance(run: RunFrames) -> Section | None:
    shares = importance_intervals(run)
    if shares.empty:
        return None
    note = f"What separates the best of {compare_to_reference(run).finished:,} finished trials from the others"
    if shares["low"].isna().any():
        note += f". Intervals are left out for more than {MAX_RESAMPLED:,}: they would be narrow, and take long."
    else:
        note += "; the lines are 90% intervals, by bootstrap over the trials."
    return Section("Importance", note, [plot_of("Importance of each hyperparameter", charts.importance_chart(shares))])


def _failures(run: RunFrames) -> Section | None:
    failed = run.trials[run.trials["state"] == FAILED]
    rows = [[str(row.trial), str(row.epochs), printable(row.error)] for row in failed.head(_TOP).itertuples()]
    table = Table(["trial", "epochs", "reason"], rows, sortable=True)
    return Section("Failed trials", table=table) if rows else None


@once_per_run
def _shown(run: RunFrames) -> pd.DataFrame:
    """The trials that plots show, with `text` for a hover."""
    trials = chart_data.drawn(run)
    return trials.assign(text=described(trials, list(run.spec.space)))


def _comparable(run: RunFrames) -> tuple[pd.DataFrame, float, float]:
    """Those with an accuracy, `complete` where it can be compared, and the range of what can."""
    trials = _shown(run).dropna(subset=["accuracy"])
    complete, lowest, highest = chart_data.comparable(run, trials)
    return trials.assign(complete=complete), lowest, highest


def _sampled(run: RunFrames) -> str:
    """What the plots leave out."""
    drawn, trials = len(_shown(run)), len(run.trials)
    return f" {drawn:,} of {trials:,} trials are shown: the best, and others evenly spread." if drawn < trials else ""


PARTS = (_pairs, _curves, _trials, _together, _slices, _importance, _failures, *DETAILS)  # in the order of the page
