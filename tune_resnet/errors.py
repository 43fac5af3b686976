"""What the errors that a command shows to its user have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tune_resnet._text import printable


class UserError(Exception):
    """Something only the user can mend. The message is one line; a command shows it and exits with `exit_code`."""

    exit_code = 2

    def __init__(self, message: object) -> None:
        super().__init__(printable(message))


class SearchError(UserError):
    """A search that could not go on: the disk is full, say. What is recorded stays, and --resume continues it."""

    exit_code = 1


class RecordError(UserError):
    """A run directory that cannot be made, written or read."""


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Runs a command; its exit code (None: 0), or after one line on stderr that of what only the user can mend: 1 where
    a file cannot be read or written."""
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
