"""What a confirmation's rows say: its pairs, the statistics of their differences, a sentence and a table."""

from __future__ import annotations

import pandas as pd
from rich.table import Table

from tune_resnet.paired import ALPHA, BETTER, WORSE, PairedResult
from tune_resnet.text import percent, printable

WINNER, REFERENCE = "winner", "reference"

# confirm.csv: one row per training
CONFIRM_DTYPES = {
    "seed": "int64",
    "configuration": "str",  # winner or reference
    "max_lr": "float64",
    "weight_decay": "float64",
    "grad_clip": "float64",
    "epochs": "int64",  # finished
    "test_accuracy": "float64",  # in [0, 1], after the last epoch
    "test_loss": "float64",
    "seconds": "float64",  # training and evaluation
    "worker": "str",  # host:process
    "error": "str",  # why it has no accuracy
}


def complete_pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Test accuracies in [0, 1], columns winner and reference, one row per seed for which both are known."""
    accuracies = rows.pivot(index="seed", columns="configuration", values="test_accuracy")
    return accuracies.reindex(columns=[WINNER, REFERENCE]).dropna()


def pairs_table(rows: pd.DataFrame) -> Table:
    """Both accuracies and their difference in percentage points, one row per seed; a failed training says why."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for name in ("seed", WINNER, REFERENCE, "difference"):
        table.add_column(name)
    for seed, pair in rows.groupby("seed"):
        by_name = pair.set_index("configuration")
        cells = [_cell(by_name, WINNER), _cell(by_name, REFERENCE)]
        known = complete_pairs(pair)
        difference = f"{100 * (known[WINNER] - known[REFERENCE]).item():+.2f}" if len(known) else "-"
        table.add_row(str(seed), *cells, difference)
    return table


def _cell(by_name: pd.DataFrame, configuration: str) -> str:
    if configuration not in by_name.index:
        return "-"
    error = str(by_name.at[configuration, "error"])
    return printable(error) if error else percent(float(by_name["test_accuracy"][configuration]))


def verdict_sentence(result: PairedResult, images: int) -> str:
    """The answer and how sure it is, for a person."""
    answer = {
        BETTER: "The winner is better than the reference",
        WORSE: "The winner is worse than the reference",
    }.get(result.verdict, f"Winner and reference are not distinguishable at N = {result.n}")
    interval = "no interval, since all pairs differ by the same"
    if result.low is not None and result.high is not None:
        interval = f"95% interval {result.low:+.2f} to {result.high:+.2f}"
    return (
        f"{answer}: {result.mean:+.2f} percentage points on {images:,} test images ({interval}), "
        f"over {result.n} paired seeds; {_permutation(result)}.{_needed(result)}"
    )


def _permutation(result: PairedResult) -> str:
    if not result.exact:
        return f"permutation test on drawn sign flips p = {result.p_value:.2g}"
    limit = f" ({result.n} pairs cannot give less than {result.least_p:.4g})" if result.least_p > ALPHA else ""
    return f"exact permutation test p = {result.p_value:.4g}{limit}"


def _needed(result: PairedResult) -> str:
    if result.verdict in (BETTER, WORSE) or result.pairs_needed is None:
        return ""
    return f" To show a difference of this size with 80% power takes about {result.pairs_needed:,} paired seeds."
