"""CIFAR-10, downloaded once."""

from __future__ import annotations

import queue
import socket
import threading
import urllib.request
from http.client import HTTPException
from pathlib import Path

import numpy as np

from tune_resnet.config.sections import CIFAR10_FILES
from tune_resnet.data.types import SIZE, DataError, Dataset, ImageSet, content_fingerprint, shapes_line

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
PROBE_SECONDS = 2.0  # for the download host's first answer, name resolution included
STALL_SECONDS = 30.0  # without a byte, after which a download is given up


def load_cifar10(root: Path) -> Dataset:
    """CIFAR-10 from `root`, downloaded there first where it is missing; torchvision checks every file's MD5.

    The cheap look for files and network comes first, since importing torchvision takes seconds.
    """
    advice = f"put {CIFAR10_FILES[-1]} into {root}, or use --dataset folder --data-dir DIR, or --dataset digits"
    if not any((root / name).exists() for name in CIFAR10_FILES) and not _answers(CIFAR10_URL):
        raise DataError(f"CIFAR-10 is neither in {root} nor downloadable (no network): {advice}")
    from torchvision.datasets import CIFAR10

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)  # torchvision sets none: a stalled download would wait for ever
    try:
        parts = [CIFAR10(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"CIFAR-10 in {root} is missing or damaged, and getting it failed ({error}): {advice}"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    train, test = (
        ImageSet(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, dtype=np.int64))
        for part in parts
    )
    classes = tuple(parts[0].classes)
    shapes = shapes_line(np.full((len(train), 2), SIZE), SIZE)
    return Dataset("cifar10", train, test, classes, content_fingerprint(train, test, classes), shapes=shapes)


def _answers(url: str) -> bool:
    """Whether the host can be reached, through proxies where set, within `PROBE_SECONDS`.

    In a thread because no timeout bounds name resolution.
    """
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
                answers.put(True)
        except (OSError, HTTPException, ValueError):
            answers.put(False)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return False
