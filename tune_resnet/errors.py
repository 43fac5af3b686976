"""What the errors that a user can cause have in common."""

from __future__ import annotations

from tune_resnet.text import printable


class UserError(Exception):
    """Something only the user can mend. The message is one line; a command shows it and exits with code 2."""

    def __init__(self, message: object) -> None:
        super().__init__(printable(message))
