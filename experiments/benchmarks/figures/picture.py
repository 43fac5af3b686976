"""README's picture: what early signals say about the end, and what searches make of it.

    pip install -e '.[picture]'
    python -m experiments.benchmarks.figures.picture --results experiments/results --out experiments/results/finding.png

from fidelity/fidelity.csv and efficiency-gtsrb/summary.csv, as fidelity_table.py and search_efficiency.py leave them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

SIGNALS = {"val_accuracy": ("validation accuracy", "tab:gray"), "train_loss": ("training loss", "tab:blue")}
STRATEGIES = {
    "random": ("random search", "tab:olive"),
    "ray": ("Ray Tune, defaults (TPE, ASHA)", "tab:red"),
    "optuna-hyperband": ("Optuna (TPE, Hyperband)", "tab:orange"),
    "syne-cqr": ("Syne Tune CQR", "tab:purple"),
    "optuna-gp": ("Optuna's Gaussian process", "tab:green"),
    "ours": ("tune_resnet", "tab:blue"),
}


def draw_signals(axes: Axes, fidelity: pd.DataFrame) -> None:
    for signal, (label, colour) in SIGNALS.items():
        rows = fidelity[fidelity["signal"] == signal]
        axes.plot(rows["epoch"], rows["spearman"], color=colour, marker="o", label=label)
        axes.fill_between(rows["epoch"], rows["spearman_low"], rows["spearman_high"], color=colour, alpha=0.2, lw=0)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.axvline(4, color="black", linewidth=0.5, linestyle=":")
    axes.annotate("learning rate\nat its peak", (4, -0.42), ha="center", fontsize=8, backgroundcolor="white")
    axes.set(xlabel="epoch", ylabel="rank correlation with the final accuracy", ylim=(-0.5, 1.02))
    axes.set_title("What is known early (CIFAR-10, 64 configurations, 90% intervals)", fontsize=10)
    axes.legend(loc="lower right", frameon=False)


def draw_searches(axes: Axes, summary: pd.DataFrame) -> None:
    for strategy, (label, colour) in STRATEGIES.items():
        rows = summary[summary["strategy"] == strategy]
        axes.plot(
            rows["epochs"], rows["regret"], color=colour, label=label, linewidth=2.5 if strategy == "ours" else 1.2
        )
        axes.fill_between(rows["epochs"], rows["low"], rows["high"], color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="epochs spent, all trials together", ylabel="regret, percentage points", ylim=(0, None))
    axes.set_title("What searches find (traffic signs, replayed, mean of 100 seeds)", fontsize=10)
    axes.legend(loc="lower left", frameon=False, fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="holds those folders")
    parser.add_argument("--out", type=Path, required=True, help="the PNG file")
    options = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    draw_signals(left, pd.read_csv(options.results / "fidelity" / "fidelity.csv"))
    draw_searches(right, pd.read_csv(options.results / "efficiency-gtsrb" / "summary.csv"))
    figure.savefig(options.out, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
