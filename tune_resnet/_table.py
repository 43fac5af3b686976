"""Tables for a terminal, which are plain text elsewhere."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

_NOTE_WIDTH = 20  # characters that a column of notes needs at least

# Colours of a trial's state and of what rows stand for. Rich leaves them out where NO_COLOR is set, and where output is
# not a terminal.
STYLES = {
    "finished": "green", "running": "cyan", "stopped": "dim", "interrupted": "yellow", "failed": "red",
    "winner": "bold green", "reference": "bold blue",
}  # fmt: skip


class FittingTable(Table):
    """A table without lines. Where the terminal is too narrow, whole columns are left out, and it says which; only
    notes are broken between words.

    Args:
        columns: their names.
        least: those that can be left out, the least needed first; others may follow, the last one first.
        notes: those whose cells may be broken.
    """

    def __init__(self, *columns: str, least: Sequence[str] = (), notes: Sequence[str] = ()) -> None:
        super().__init__(box=None, pad_edge=False, collapse_padding=True, header_style="bold", caption_justify="left")
        self.least, self.notes = least, notes
        for name in columns:
            self.add_column(name, overflow="fold", no_wrap=name not in notes)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left_out: list[str] = []
        others = [str(column.header) for column in self.columns[1:]]
        for name in [*self.least, *(name for name in reversed(others) if name not in self.least)]:
            if self._needs(console, options, left_out) <= options.max_width:
                break
            if name in others:
                left_out.append(name)
        table = self._without(left_out)
        if left_out:
            caption = f"{self.caption}\n" if self.caption else ""
            table.caption = f"{caption}too narrow to show {', '.join(left_out)}"
        yield from Table.__rich_console__(table, console, options)

    def _needs(self, console: Console, options: ConsoleOptions, left_out: Sequence[str]) -> int:
        """The width of what is not left out."""
        shown = self._without([*left_out, *self.notes])
        notes = sum(column.header in self.notes and column.header not in left_out for column in self.columns)
        wide = options.update(width=10_000)
        return Table.__rich_measure__(shown, console, wide).maximum + notes * _NOTE_WIDTH

    def _without(self, names: Sequence[str]) -> FittingTable:
        found = copy.copy(self)
        kept = [column for column in self.columns if column.header not in names]
        found.columns = [dataclasses.replace(column, _index=place) for place, column in enumerate(kept)]
        return found


def row_style(*, winner: bool, reference: bool) -> str:
    """The style of a trial's row."""
    return STYLES["winner"] if winner else STYLES["reference"] if reference else ""
