"""The reference once, on the full training set, judged on the test set; in this process, without Ray."""

from __future__ import annotations

import os
import platform
from dataclasses import replace

from rich.console import Console

from tune_resnet.data import ImageSet, Split
from tune_resnet.device import choose_device, choose_precision, device_name
from tune_resnet.plan import duration
from tune_resnet.records import FAILED, FINISHED, REFERENCE_TRIAL, Recorder, RunDirectory
from tune_resnet.spec import SearchSpec
from tune_resnet.train import EpochMetrics, NonFiniteLoss, TrainingRun
from tune_resnet.weights import save_model
