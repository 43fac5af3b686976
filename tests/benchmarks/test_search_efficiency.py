"""The replay of searches, on a surrogate of curves whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.benchmarks.early_stopping import search_efficiency
from experiments.benchmarks.early_stopping.curves import design
from experiments.benchmarks.early_stopping.peers import PEERS
from experiments.benchmarks.early_stopping.points import COUNT, portfolio
from experiments.benchmarks.early_stopping.replay import simulate
from experiments.benchmarks.early_stopping.search_efficiency import epochs_to_target, points_chosen_without
from experiments.benchmarks.early_stopping.strategies import (
    STOPPING,
    STRATEGIES,
    Configuration,
    IEpoch,
    OnRay,
    OptunaAlone,
    Strategy,
    ours,
)
from experiments.benchmarks.early_stopping.surrogate import OUTPUTS, Surrogate, comparable_runs, cross_validate
from tune_resnet.config.default_space import NARROW_SPACE, POINTS_TO_EVALUATE
from tune_resnet.config.sections import TrainSpec
from tune_resnet.config.space import Choices, Domain, Space
from tune_resnet.config.spec import SearchSpec

EPOCHS = 4
SPEC = SearchSpec(train=TrainSpec(epochs=EPOCHS), space=NARROW_SPACE)
REFERENCE = SPEC.reference


MIXED: Space = {
    "max_lr": Domain(low=1e-3, high=1e-1),
    "batch_size": Domain(low=50, high=400),
    "momentum": Domain(low=0.8, high=0.98, log=False),
    "schedule": Choices(choices=("linear-exponential", "cosine", "linear")),
}


def seeded(seed: int) -> SearchSpec:
    return replace(SPEC, train=replace(SPEC.train, seed=seed))


def recorded(configurations: int, seeds: int = 1, seed_effect: float = 0.0) -> pd.DataFrame:
    """Accuracy falls with the distance from the best peak rate, 10^-1.5; a seed shifts all of its training losses."""
    rng = np.random.default_rng(0)
    rows = []
    for configuration in range(configurations):
        max_lr, weight_decay, grad_clip = 10 ** rng.uniform([-3, -6, -2], [-1, -2, 0])
        key = {"configuration": configuration, "max_lr": max_lr, "weight_decay": weight_decay, "grad_clip": grad_clip}
        for seed in range(seeds):
            for epoch in range(1, EPOCHS + 1):
                loss = 1 + 0.1 * (np.log10(max_lr) + 1.5) ** 2 - epoch / 10 + rng.normal(0, 0.002)
                row = key | {"seed": seed, "total_epochs": EPOCHS, "epoch": epoch}
                row |= {"train_loss": loss * np.exp(seed * seed_effect), "val_loss": loss}
                rows.append(row | {"val_accuracy": 1.3 - loss, "ema33_val_accuracy": 1.3 - loss})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def surrogate() -> Surrogate:
    return Surrogate(comparable_runs(recorded(24)), SPEC)


@pytest.fixture
def two_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cross-validation that takes two surrogates instead of ten, where its figures do not matter."""
    monkeypatch.setattr("experiments.benchmarks.early_stopping.surrogate.FOLDS", 2)


@pytest.fixture(scope="module")
def mixed() -> Surrogate:
    """Of a space of all kinds: the cosine schedule is two points better, and all else does not matter."""
    spec = replace(SPEC, space=MIXED)
    rows = []
    for number, point in enumerate(design(32, spec)):
        loss = 0.5 - 0.02 * (point["schedule"] == "cosine")
        for epoch in range(1, EPOCHS + 1):
            known = {"configuration": number, "seed": 0, "total_epochs": EPOCHS, "epoch": epoch, **point}
            at = loss - epoch / 20 + 1e-4 * (number % 3)
            rows.append(known | {"train_loss": at, "val_loss": at, "val_accuracy": 1 - at})
    return Surrogate(comparable_runs(pd.DataFrame(rows)), spec)


class Scripted(Strategy):
    """Stops every other trial after its second epoch."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, int]] = []

    def ask(self, number: int) -> Configuration:
        return {**REFERENCE, "max_lr": 0.03} if number == 1 else REFERENCE

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        self.reports.append((number, result["epoch"]))
        return number % 2 == 0 or result["epoch"] < 2


def test_the_surrogate_has_learnt_the_curves(surrogate: Surrogate) -> None:
    table = cross_validate(comparable_runs(recorded(24)), SPEC).set_index(["output", "epoch"])
    assert len(table) == len(OUTPUTS) * EPOCHS
    assert (table["spearman"] > 0.9).all()
    assert table["rmse"]["val_accuracy", EPOCHS] < 0.02
    assert surrogate.optimum == pytest.approx(0.7, abs=0.01)
    assert surrogate.quality({**REFERENCE, "max_lr": 0.03}) > surrogate.quality(REFERENCE) + 0.01
    assert surrogate.curve(REFERENCE, None)["val_accuracy"][-1] == pytest.approx(surrogate.quality(REFERENCE))


@pytest.mark.usefixtures("two_folds")
def test_a_table_without_averaged_weights_will_do() -> None:
    runs = comparable_runs(recorded(24).drop(columns="ema33_val_accuracy"))
    surrogate = Surrogate(runs, SPEC)
    assert list(surrogate.curve(REFERENCE, 0)) == ["val_accuracy", "val_loss", "train_loss"]
    assert surrogate.optimum == pytest.approx(0.7, abs=0.01)
    assert len(cross_validate(runs, SPEC)) == 3 * EPOCHS


def test_a_surrogate_learns_what_a_choice_is_worth(mixed: Surrogate) -> None:
    others = {"max_lr": 0.02, "batch_size": 100, "momentum": 0.85}
    qualities = {name: mixed.quality({**others, "schedule": name}) for name in MIXED["schedule"].ends}
    assert qualities["cosine"] == pytest.approx(mixed.optimum, abs=0.005)
    for name in ("linear-exponential", "linear"):
        assert qualities["cosine"] - qualities[name] == pytest.approx(0.02, abs=0.005)


@pytest.mark.parametrize("name", [name for name in (*ours(()), *STRATEGIES) if "gp" not in name])  # minutes each
def test_strategies_search_a_space_of_all_kinds(name: str, mixed: Surrogate) -> None:
    spec = mixed.spec
    first, again = (simulate((ours(()) | STRATEGIES)[name](spec), mixed, 0, budget=80, workers=2) for _ in range(2))
    assert dict(first.finished[0].configuration) == pytest.approx(spec.reference)
    assert list(first.regret) == list(again.regret)
    for trial in first.finished:
        assert all(domain.holds(trial.configuration[one]) for one, domain in spec.space.items())
        assert type(trial.configuration["batch_size"]) is int


def test_equal_seeds_have_equal_noise(surrogate: Surrogate) -> None:
    first, again, other = (surrogate.curve(REFERENCE, seed)["train_loss"] for seed in ((3, 1), (3, 1), (3, 2)))
    assert list(first) == list(again)
    assert list(first) != list(other)


def test_noise_comes_from_repeated_seeds_where_there_are_enough() -> None:
    noisy = recorded(24, seeds=3)
    rng = np.random.default_rng(1)
    noisy["val_accuracy"] += np.repeat(rng.normal(0, 0.02, len(noisy) // EPOCHS), EPOCHS)  # the same at all epochs
    surrogate = Surrogate(comparable_runs(noisy), SPEC)
    drawn = np.array([surrogate.curve(REFERENCE, seed)["val_accuracy"] for seed in range(400)])
    assert drawn.std(axis=0) == pytest.approx([0.02] * EPOCHS, rel=0.25)
    assert np.corrcoef(drawn.T).min() > 0.9


@pytest.mark.usefixtures("two_folds")
def test_what_a_seed_does_to_all_configurations_is_no_noise() -> None:
    runs = comparable_runs(recorded(24, seeds=2, seed_effect=0.2))
    means = runs.groupby("seed")["train_loss"].mean()
    assert means[0] == pytest.approx(means[1], rel=0.01)
    assert cross_validate(runs, SPEC).set_index(["output", "epoch"])["noise"]["train_loss", 1] < 0.01


def test_epochs_and_trials_are_counted_as_they_are_spent(surrogate: Surrogate) -> None:
    strategy = Scripted()
    history = simulate(strategy, surrogate, seed=0, budget=16, workers=2)
    first = [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (2, 1), (0, 4), (2, 2)]  # 2 follows 1 on the second worker
    assert strategy.reports[:8] == first
    assert len(strategy.reports) == len(history.regret) == 16
    assert [trial.number for trial in history.finished] == [0, 2]
    assert history.started == 7  # the last one has just been asked for
    # Trial 1 is better than the reference, but was stopped: it is never chosen.
    reference = 100 * (surrogate.optimum - surrogate.quality(REFERENCE))
    assert history.regret == pytest.approx([reference] * 16)


def test_the_chosen_trial_changes_when_a_better_one_has_finished(surrogate: Surrogate) -> None:
    class All(Scripted):
        def report(self, number: int, result: Mapping[str, Any]) -> bool:
            return True

    history = simulate(All(), surrogate, seed=0, budget=16, workers=1)
    assert len(set(history.regret[:7])) == 1
    assert history.regret[7] < history.regret[6] - 1  # trial 1 ends with epoch 8
    assert [trial.number for trial in history.finished] == [0, 1, 2, 3]


def test_a_halted_trial_goes_on_where_it_was(surrogate: Surrogate) -> None:
    class Resuming(Scripted):
        def resumed(self) -> int | None:
            return 1 if self.reports[-1:] == [(2, 4)] else None

    strategy = Resuming()
    history = simulate(strategy, surrogate, seed=0, budget=12, workers=1)
    epochs = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (2, 4), (1, 3), (3, 1)]
    assert strategy.reports == epochs
    assert history.started == 4


def test_i_epoch_judges_once_and_trains_the_best_of_each_round_to_the_end(surrogate: Surrogate) -> None:
    strategy = IEpoch(SPEC)
    history = simulate(strategy, surrogate, 0, budget=54, workers=1)  # the reference, two rounds
    assert history.started == 1 + 2 * IEpoch.ROUND + 1  # the last one has just been asked for
    first, *others = (trial.number for trial in history.finished)
    assert first == 0
    early = [surrogate.curve(strategy.trials[number].params, (0, number))["val_accuracy"][0] for number in range(33)]
    best = [
        sorted(round_, key=lambda number: -early[number])[: IEpoch.KEPT] for round_ in (range(1, 17), range(17, 33))
    ]
    assert others == best[0] + best[1]


@pytest.mark.parametrize("name", search_efficiency.ALL)
def test_every_strategy_starts_with_the_reference_and_repeats_itself(name: str, surrogate: Surrogate) -> None:
    if name in PEERS:
        pytest.importorskip({"optuna": "optunahub", "syne": "syne_tune", "neps": "neps"}[name.partition("-")[0]])
    make = (ours(()) | STRATEGIES | PEERS)[name]
    first, again = (simulate(make(seeded(5)), surrogate, 5, budget=56, workers=2) for _ in range(2))
    assert dict(first.finished[0].configuration) == pytest.approx(REFERENCE)
    assert list(first.regret) == list(again.regret)
    assert (first.regret > -0.1).all()
    assert 2 <= len(first.finished) <= 14 < first.started
    unstopped = name == "random" or name.endswith(("none", "optuna-tpe", "optuna-gp", "optuna-auto", "syne-cqr"))
    assert (len(first.finished) == 14) == unstopped


def test_random_search_does_not_depend_on_any_signal(surrogate: Surrogate) -> None:
    class Scrambled(Surrogate):
        def __init__(self) -> None:
            vars(self).update(vars(surrogate))  # what that has learnt

        def curve(self, configuration: Configuration, seed: int | tuple[int, ...] | None) -> dict[str, np.ndarray]:
            curve = surrogate.curve(configuration, seed)
            noise = np.random.default_rng(seed).normal(size=EPOCHS)
            early = np.append(noise[:-1], curve["val_accuracy"][-1])
            return curve | {"train_loss": noise, "val_loss": noise, "val_accuracy": early}

    regrets = [simulate(STRATEGIES["random"](seeded(1)), truth, 1, 60, 2).regret for truth in (surrogate, Scrambled())]
    assert list(regrets[0]) == list(regrets[1])


def test_our_reference_is_never_stopped_and_the_study_knows_who_was(surrogate: Surrogate) -> None:
    strategy = ours(())["ours-tpe-accuracy"](SPEC)
    assert isinstance(strategy, OnRay)
    history = simulate(strategy, surrogate, 0, budget=80, workers=2)
    states = [trial.state.name for trial in strategy.searcher.study.optuna_study.trials]
    assert states[0] == "COMPLETE"
    assert states.count("COMPLETE") == len(history.finished)
    assert states.count("PRUNED") == history.started - len(history.finished) - 2
    assert states.count("RUNNING") == 2
    assert strategy.scheduler.rule.values.keys() == {1, 2}


def test_an_optuna_study_is_told_who_was_pruned(surrogate: Surrogate) -> None:
    strategy = STRATEGIES["optuna-halving"](SPEC)
    assert isinstance(strategy, OptunaAlone)
    history = simulate(strategy, surrogate, 0, budget=80, workers=2)
    pruned = [trial for trial in strategy.study.trials if trial.state.name == "PRUNED"]
    assert len(pruned) == history.started - len(history.finished) - 2 > 0
    assert all(trial.last_step in (1, 4) for trial in pruned)


def test_the_default_is_what_ours_runs() -> None:
    assert STOPPING["loss"] == SearchSpec().scheduler


def test_the_default_points_are_those_chosen_on_all_tables() -> None:
    assert points_chosen_without("none of them") == POINTS_TO_EVALUATE
    assert points_chosen_without("gtsrb-tracks") == points_chosen_without("wide-gtsrb") != POINTS_TO_EVALUATE


def test_the_target_is_reached_when_the_regret_stays_there() -> None:
    assert epochs_to_target(np.array([0.4, 0.9, 0.5, 0.2])) == 3
    assert epochs_to_target(np.array([0.5, 0.5])) == 1
    assert epochs_to_target(np.array([0.5, 0.6])) == np.inf


def test_tables() -> None:
    falling = np.linspace(1, 0, 32) * np.ones((10, 1))
    curves = {"ours": falling**2, "random": falling}
    table = search_efficiency.summary(curves, np.array([16, 32])).set_index(["strategy", "epochs"])
    assert table.loc[("random", 16), "above_ours"] == pytest.approx(falling[0, 15] - falling[0, 15] ** 2)
    assert table.loc[("ours", 16), ["low", "high"]].to_numpy() == pytest.approx([falling[0, 15] ** 2] * 2)
    targets = search_efficiency.targets(curves).set_index("strategy")
    assert [targets[name]["random"] for name in ("epochs", "low", "high", "mean_epochs")] == [17] * 4
    assert targets["of_random"]["ours"] == targets["epochs"]["ours"] / 17
    assert targets.loc["ours", "reached"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("two_folds")
def test_the_command_writes_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(24).to_parquet(tmp_path / "curves.parquet")
    (tmp_path / "env.json").write_text(json.dumps({"model": {}, "train": {"epochs": EPOCHS}}))
    files = f"--curves {tmp_path}/curves.parquet --out {tmp_path}/out"
    arguments = f"{files} --seeds 3 --epochs 24 --processes 1 --strategies ours random"
    monkeypatch.setattr("sys.argv", ["search_efficiency.py", *arguments.split()])
    search_efficiency.main()
    regret = pd.read_csv(tmp_path / "out" / "regret.csv")
    assert list(regret) == ["strategy", "seed", "epochs", "regret"]
    assert regret.groupby(["strategy", "seed"])["epochs"].apply(list).tolist() == [[8, 12, 16, 20, 24]] * 6
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *(f"{name}.csv" for name in ("surrogate", "regret", "summary", "targets")),
        "env.json",
        "searches",
    }


def test_searches_that_are_there_are_not_run_again(tmp_path: Path, surrogate: Surrogate) -> None:
    settings = {"curves": "x", "epochs": 8, "workers": 2}
    rows = [{**settings, "seed": seed, "regret": [float(seed)] * 8} for seed in (1, 0)]
    pd.DataFrame(rows).to_parquet(tmp_path / "random.parquet")
    ((name, table),) = search_efficiency.searches(["random"], 2, 1, tmp_path, settings, surrogate)
    assert (name, list(table["seed"])) == ("random", [1, 0])
    assert search_efficiency.regrets(tmp_path, 2)["random"][:, 0].tolist() == [0, 1]
    assert search_efficiency.regrets(tmp_path, 3) == {}
    with pytest.raises(SystemExit, match="choose another --out"):
        next(search_efficiency.searches(["random"], 2, 1, tmp_path, {**settings, "epochs": 16}, surrogate))


def test_a_portfolio_covers_every_table_and_repeats_nothing() -> None:
    points = [{"max_lr": rate} for rate in (0.001, 0.01, 0.02, 0.1)]
    gained = {"a": np.array([0.0, 1.0, 0.9, -9.0]), "b": np.array([-9.0, -9.0, 2.4, 4.0])}
    chosen = portfolio(gained, points)
    assert len(chosen) == len({point["max_lr"] for point in chosen}) == COUNT
    assert chosen[0] == {"max_lr": 0.02}  # the only one that is good on both
    assert {point["max_lr"] for point in chosen[1:3]} == {0.01, 0.1}
