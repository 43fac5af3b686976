"""Where else a search's results go, as they come: TensorBoard, MLflow, Weights & Biases, through Ray's own callbacks.

Their own environment variables say where that is: MLFLOW_TRACKING_URI, WANDB_MODE, WANDB_API_KEY.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ray import tune
from ray.tune.logger import TBXLoggerCallback

from tune_resnet._text import one_line
from tune_resnet.errors import UserError
from tune_resnet.runs.directory import RunDirectory

PROJECT = "tune_resnet"


def logger_callbacks(names: Sequence[str], run: RunDirectory) -> list[tune.Callback]:
    """The callbacks of the loggers with these names, `request.LOGGERS`, each once. The run's name groups its trials.

    MLflow without an address writes to `mlflow.db` in the run directory.

    Raises:
        UserError: a logger's package cannot be imported as it is installed.
    """
    found = []
    for name in dict.fromkeys(names):
        try:
            found.append(_logger(name, run))
        except ImportError as error:
            raise UserError(f"--log {name}: its package does not work: {one_line(error)}") from error
    return found


def _logger(name: str, run: RunDirectory) -> tune.Callback:
    if name == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run.path / 'mlflow.db'}")
        return MLflowLoggerCallback(tracking_uri=uri, experiment_name=run.path.name)
    if name == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        # Its own folder: Ray's working folder is copied to the run before the last trials have written all.
        return WandbLoggerCallback(project=PROJECT, group=run.path.name, dir=str(run.path))
    return TBXLoggerCallback()
