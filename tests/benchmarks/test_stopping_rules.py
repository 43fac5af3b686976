"""The replay of stopping rules, on curves whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks.early_stopping import stopping_rules
from experiments.benchmarks.early_stopping.stopping_rules import Rule

COUNT, EPOCHS = 20, 4


@pytest.fixture
def curves() -> pd.DataFrame:
    """Training loss tells the final order from the first epoch on, validation accuracy its reverse until the last."""
    rows = []
    for configuration in range(COUNT):
        for seed in (0, 1):
            for epoch in range(1, EPOCHS + 1):
                order = configuration if epoch == EPOCHS else COUNT - configuration
                row = {"configuration": configuration, "seed": seed, "total_epochs": EPOCHS, "epoch": epoch}
                loss = 1 - configuration / COUNT + seed * 0.1
                rows.append(row | {"train_loss": loss, "val_loss": 1.0, "val_accuracy": order / 100})
    return pd.DataFrame(rows)


def figures(curves: pd.DataFrame, rule: Rule) -> dict[str, object]:
    signals = stopping_rules.qualities(curves)
    return stopping_rules.rule_row(rule, signals[rule.signal], signals["val_accuracy"].iloc[:, -1].to_numpy())


def test_a_signal_that_tells_the_truth_keeps_every_winner(curves: pd.DataFrame) -> None:
    row = figures(curves, Rule("train_loss", (1,)))
    assert (row["best_survives"], row["regret"]) == (1, 0)
    assert float(str(row["top_kept"])) > 0.99  # the second best, right after the best, is the worse half of two
    assert 0.5 < float(str(row["epochs_share"])) < 0.9


def test_a_signal_that_lies_loses_them(curves: pd.DataFrame) -> None:
    row = figures(curves, Rule("val_accuracy", (1, 2)))
    assert float(str(row["best_survives"])) < 0.3
    assert float(str(row["regret"])) > 0


def test_a_margin_as_wide_as_the_signal_stops_nothing(curves: pd.DataFrame) -> None:
    row = figures(curves, Rule("train_loss", (1, 2), margin=10))
    assert (row["epochs_share"], row["top_kept"]) == (1, 1)


def test_epochs_are_counted_as_a_search_spends_them(curves: pd.DataFrame) -> None:
    signals = stopping_rules.qualities(curves)
    worsening = np.arange(COUNT)[::-1]
    epochs, finished = stopping_rules.replay(Rule("train_loss", (2,)), signals["train_loss"], worsening)
    assert epochs == EPOCHS + 2 * (COUNT - 1)  # only the first is in the better half of those seen
    assert list(finished) == [COUNT - 1]


def test_a_search_of_some_of_them_is_judged_by_the_best_of_these(curves: pd.DataFrame) -> None:
    signals = stopping_rules.qualities(curves)
    final = signals["val_accuracy"].iloc[:, -1].to_numpy()
    found = [
        stopping_rules.rule_row(Rule("train_loss", (1,)), signals["train_loss"], final, size) for size in (1, 5, None)
    ]
    assert [row["best_survives"] for row in found] == [1, 1, 1]
    shares = [float(str(row["epochs_share"])) for row in found]
    assert shares[0] == 1  # the first of a search is never stopped
    assert 1 > shares[1] > shares[2]
    low, high = (float(str(found[1][f"epochs_share_{end}"])) for end in ("low", "high"))
    assert low <= shares[1] <= high


def test_where_everything_is_stopped_nothing_is_kept(curves: pd.DataFrame) -> None:
    curves = curves.assign(train_loss=np.nan)
    row = figures(curves, Rule("train_loss", (1,)))
    assert (row["best_survives"], row["top_kept"], row["regret"]) == (0, 0, 19)
