"""Strict reading of a run directory's text files: each complaint is a RecordError that names the file and the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from tune_resnet._files import read_regular
from tune_resnet.config.sections import MAX_EPOCHS, MAX_SEED, MAX_TRIALS, OBJECTIVES
from tune_resnet.config.validation import shown
from tune_resnet.errors import RecordError

# No number in a run's tables is negative, and none is above these.
_HIGHEST = {
    "trial": MAX_TRIALS - 1,
    "epoch": MAX_EPOCHS,
    "epochs": MAX_EPOCHS,
    "best_epoch": MAX_EPOCHS,
    "seed": MAX_SEED,
    "confidence": 1,
    **{f"{held_out}_{name}": 1 for held_out in ("val", "test") for name in OBJECTIVES},
}
_HIGHEST_OF_ALL = 2.0**128  # a loss is a 32-bit float; sums of such numbers are finite


def read_text(path: Path) -> str:
    """A whole UTF-8 file."""
    return _decode(path, _read(path))


def read_table(
    path: Path, dtypes: Mapping[str, str], *, growing: bool = False, added: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """A CSV file that has exactly the columns of `dtypes`; while it is `growing`, the last line may lack its end.

    A file from before some of the columns that were `added` later has their values from there.
    """
    content = _read(path)
    lines, newline, rest = content.rpartition(b"\n")
    if rest and not growing:
        line = content.count(b"\n") + 1
        raise RecordError(f"{path} line {line}: the line has no end")
    text = _decode(path, lines + newline)
    csv.field_size_limit(2**31 - 1)  # an error's text may be longer than the default 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, added = next(reader, []), added or {}
        added = {name: value for name, value in added.items() if name not in header}
        dtypes, all_dtypes = {name: kind for name, kind in dtypes.items() if name not in added}, dtypes
        if header != list(dtypes):
            raise RecordError(f"{path} line 1: the columns must be {','.join(dtypes)}")
        rows = []
        for row in reader:
            if len(row) != len(dtypes):
                raise RecordError(f"{path} line {reader.line_num}: {len(row)} values for {len(dtypes)} columns")
            rows.append(row)
    except csv.Error as error:
        raise RecordError(f"{path} line {reader.line_num}: {error}") from None
    columns = list(zip(*rows, strict=True)) or [()] * len(dtypes)
    table = pd.DataFrame(
        {name: _column(path, name, cells, dtype) for (name, dtype), cells in zip(dtypes.items(), columns, strict=True)}
    )
    return table.assign(**added)[list(all_dtypes)]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by column."""
    return cast(list[dict[str, Any]], table.to_dict("records"))


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecordError(f"{path} line {line}: not UTF-8 text") from None


def _column(path: Path, name: str, cells: Sequence[str], dtype: str) -> pd.Series:
    column = pd.Series(_parse(path, name, cells, _PARSERS[dtype]), dtype=dtype)
    if dtype not in ("str", "bool"):
        highest = _HIGHEST.get(name, _HIGHEST_OF_ALL)
        wrong = (column < 0) | (column > highest)  # neither holds for NaN, which is not known
        if wrong.any():
            row = int(wrong.argmax())
            raise RecordError(f"{path} line {row + 2}: {name} is {shown(cells[row])}, not between 0 and {highest:g}")
    return column


def _parse(path: Path, name: str, cells: Sequence[str], parse: Callable[[str], Any]) -> list[Any]:
    values = []
    for line, cell in enumerate(cells, start=2):  # the writer puts no line breaks into values
        try:
            values.append(parse(cell))
        except ValueError:
            raise RecordError(f"{path} line {line}: {name} is {shown(cell)}, not a number") from None
    return values


def _int64(cell: str) -> int:
    value = int(cell)
    if not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _bool(cell: str) -> bool:
    if cell not in ("True", "False"):
        raise ValueError
    return cell == "True"


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int64": _int64,
    "float64": lambda cell: float(cell or "nan"),  # exact: the number that was written
    "str": str,
    "bool": _bool,
}
