"""What the errors that a command shows to its user have in common."""

from __future__ import annotations

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
