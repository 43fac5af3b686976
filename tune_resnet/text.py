"""How numbers and foreign text are shown to a person; the same everywhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def printable(text: object) -> str:
    """Text with line breaks, control characters and bytes that are not text shown as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def one_line(text: object) -> str:
    """Text of several lines as one, `printable`."""
    return printable(" ".join(str(text).split()))


def say(console: Console, text: str, style: str = "") -> None:
    """Prints text as it is, and leaves the breaking of lines to the terminal."""
    from rich.text import Text

    console.print(Text(text, style=style), soft_wrap=True)


def percent(share: float | None) -> str:
    """A share in [0, 1] as `64.12%`; `-` where it is not known."""
    return "-" if share is None or math.isnan(share) else f"{share:.2%}"


def duration(seconds: float) -> str:
    """Seconds as `42s`, `3m 05s` or `2h 10m`."""
    if seconds < 59.5:
        return f"{max(0.0, seconds):.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02d}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"
