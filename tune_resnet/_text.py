"""How numbers and foreign text are shown to a person; the same everywhere."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 1000  # characters


def printable(text: object) -> str:
    """Text with line breaks, control characters and bytes that are not text shown as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def one_line(text: object) -> str:
    """Text of several lines as one, `printable`."""
    return printable(" ".join(str(text).split()))


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested tables as one, whose names have dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        whole = f"{above}{printable(name)}"
        found |= flat(value, f"{whole}.") if isinstance(value, dict) else {whole: value}
    return found


def output_console() -> Console:
    """What prints text as it is; no column of a table is cut where output is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False)


def say(console: Console, text: str, style: str = "", *, whole: bool = False) -> None:
    """Prints text as it is. On a terminal its lines are broken between words, unless they are to be copied `whole`;
    what follows a line's first word in a column of its own stays in that column."""
    from rich.text import Text

    if console.is_terminal and not whole:
        # Not by rich, which would break a path.
        text = "\n".join(_wrapped(line, console.width) for line in text.split("\n"))
    console.print(Text(text, style=style), soft_wrap=True)


def _wrapped(line: str, width: int) -> str:
    column = re.match(r"(?:[a-z]+(?: [a-z]+)?)? {2,}(?=\S)", line)
    indent = " " * (column.end() if column else 0)
    wrapper = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(line)


def busy(console: Console, text: str) -> AbstractContextManager[object]:
    """Says what goes on in the block, on a terminal only: a notebook would remove, with such a line, what its cell has
    printed besides."""
    return console.status(text) if console.is_terminal else nullcontext()


def as_json(value: object) -> str:
    """A value as JSON, letters as they are; what is no text, as in a file's name that is not UTF-8, is escaped."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def to_run(module: str, *words: object) -> str:
    """A command of this package as it can be pasted here: with the Python that is running now."""
    return shlex.join([_python(), "-m", f"tune_resnet.{module}", *map(str, words)])


def to_install(*packages: str) -> str:
    """A command that installs packages for the Python that is running now, which may have no pip of its own."""
    if importlib.util.find_spec("pip") is not None:
        return shlex.join([_python(), "-m", "pip", "install", *packages])
    running = Path(sys.executable)
    # An active environment's python3 lacks pip, too: then the Python that the environment was made from.
    active = Path(shutil.which("python3") or "").parent == running.parent
    other = shown_path(Path(sys.base_prefix, "bin", "python3")) if active else "python3"
    return shlex.join([str(other), "-m", "pip", "--python", str(shown_path(running)), "install", *packages])


def _python() -> str:
    """The running Python by its name, where a shell finds it by that, else by its path."""
    running = Path(sys.executable)
    for name in ("python", "python3"):
        if os.path.abspath(shutil.which(name) or "") == str(running):
            return name
    return str(shown_path(running))


def shown_path(path: Path) -> Path:
    """A path as a person would type it: relative where it is below the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def counted(number: int, noun: str) -> str:
    """`1 image`, `1,200 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(share: float | None) -> str:
    """A share in [0, 1] as `64.12%`; `-` where it is not known."""
    return "-" if share is None or math.isnan(share) else f"{share:.2%}"


def hyperparameter(name: str, value: object) -> str:
    """A hyperparameter's value with three digits, choices and whole numbers as they are."""
    if not isinstance(value, float):
        return printable(value)
    return f"{value:.1e}" if name == "weight_decay" else f"{value:#.3g}"


def duration(seconds: float) -> str:
    """Seconds as `42s`, `3m 05s` or `2h 10m`."""
    if seconds < 59.5:
        return f"{max(0.0, seconds):.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"
