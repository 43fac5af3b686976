"""Real searches side by side: what of a longer one counts, and which differences are by fresh seed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from factories import Build

from experiments.benchmarks.early_stopping.paired_searches import by_fresh_seed, cut_off, differences, highest_accuracy
from tune_resnet.runs.tables import FINISHED, INTERRUPTED, STOPPED


@pytest.mark.parametrize(("budget", "counted", "epochs"), [(4, 1, 4), (5, 2, 5), (7, 2, 5), (8, 3, 9), (100, 3, 9)])
def test_a_longer_search_counts_as_far_as_whole_trials_go(
    budget: int, counted: int, epochs: int, tmp_path: Path
) -> None:
    build = Build(tmp_path / "run")
    build.trial([0.1, 0.2, 0.3, 0.5], FINISHED)
    build.trial([0.1], STOPPED)
    build.trial([0.1, 0.2, 0.3, 0.7], FINISHED)
    build.trial([0.1, 0.2, 0.9], INTERRUPTED)
    build.trial([0.1, 0.2, 0.3, 0.9], FINISHED)  # after one that has not ended
    found = cut_off(build.load(), budget)
    assert (len(found.trials), len(found.epochs)) == (counted, epochs)
    assert highest_accuracy(found)["val_accuracy"] == (0.7 if counted == 3 else 0.5)


def test_differences_by_search_and_by_fresh_seed_have_one_mean() -> None:
    reference = {"max_lr": 0.01, "momentum": 0.9}
    found = [("ours", 0, 0.02), ("ours", 1, 0.02), ("ray", 0, 0.01), ("ray", 1, 0.03)]
    searches = pd.DataFrame(found, columns=["set_up", "seed", "max_lr"]).assign(momentum=0.9)
    accuracies = {0.01: (0.5, 0.6), 0.02: (0.7, 0.9), 0.03: (0.4, 0.4)}
    rows = [(rate, 2000 + number, one) for rate, of_it in accuracies.items() for number, one in enumerate(of_it)]
    confirmed = pd.DataFrame(rows, columns=["max_lr", "seed", "accuracy"]).assign(momentum=0.9)
    by_search, by_seed = differences(searches, confirmed, reference), by_fresh_seed(searches, confirmed, reference)
    assert by_search["ours"].tolist() == [80, 80]  # two searches with one winner
    assert by_seed["ours"].tolist() == pytest.approx([70, 90])
    assert by_seed["ray"].tolist() == pytest.approx([45, 50])
    assert by_search.mean().to_dict() == pytest.approx(by_seed.mean().to_dict())
