"""Files that are read and replaced whole, and folders that killed processes left."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def read_regular(path: Path) -> bytes:
    """A whole file; OSError where it cannot be read, or is a pipe or a device, which may never come to an end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes `path`'s place when the block ends: a reader sees the old content or the new.

    After an error within the block the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_being_written(temporary: Path) -> bool:
    """Whether the process that `replacing` wrote such a file in, or a folder named like one, is there."""
    process = temporary.name.split(".")[-2]
    return process.isdigit() and os.path.exists(f"/proc/{process}")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))  # an error's text may hold a name that is not UTF-8


@contextmanager
def locked_folder(root: Path, prefix: str, lock: str) -> Iterator[Path]:
    """A new folder in `root`, whose name begins so, for the time of the block. Those that killed processes left are
    removed first: the system frees the lock on their file `lock` with the process."""
    for left in root.glob(f"{prefix}*"):
        with suppress(OSError), (left / lock).open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=root))
    try:
        with (folder / lock).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            folder = folder.rename(root / folder.name[1:])  # it is seen only when it is locked
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
