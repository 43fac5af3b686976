"""Tables for a terminal of any width."""

from __future__ import annotations

import pytest
from rich.console import Console

from tune_resnet._table import FittingTable, row_style


def lines(width: int, color: str | None = None, error: str = "") -> list[str]:
    notes = ("error",) if error else ()
    table = FittingTable("trial", "state", "estimate", "max_lr", *notes, least=("state",), notes=notes)
    style = row_style(winner=True, reference=False)
    table.add_row("12", "finished", "98.59%", "0.0213", *([error] if error else []), style=style)
    console = Console(width=width, force_terminal=color is not None, color_system=color)  # type: ignore[arg-type]
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_columns_are_dropped_and_not_split() -> None:
    assert lines(30) == ["trial state    estimate max_lr", "12    finished 98.59%   0.0213"]
    assert lines(29)[:2] == ["trial estimate max_lr", "12    98.59%   0.0213"]
    assert " ".join(lines(29)[2:]) == "too narrow to show state"
    assert lines(14)[:2] == ["trial estimate", "12    98.59%"]
    assert " ".join(lines(14)[2:]) == "too narrow to show state, max_lr"


@pytest.mark.parametrize("width", range(1, 14))
def test_no_terminal_is_too_narrow(width: int) -> None:
    assert lines(width)


def test_notes_are_broken_between_words_where_they_fit() -> None:
    error = "the loss was not finite in epoch 1"
    found = lines(51, error=error)
    assert found[1].startswith("12    finished 98.59%   0.0213 the loss was not")
    assert " ".join(line[31:] for line in found[1:] if line.strip()) == error


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\033[1;32m12" in lines(80, "standard")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "32m" not in lines(80, "standard")[1]
    assert "\033" not in lines(80)[1]
