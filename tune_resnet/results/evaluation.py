"""How good a final model is on the test images, class by class: all of it from its predictions.csv."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tune_resnet._text import counted, percent
from tune_resnet.hpo.ranking import final_run
from tune_resnet.runs.load import RunFrames, once_per_run
from tune_resnet.runs.predictions import read_predictions

BINS = 15  # of confidence, as in Guo et al., "On Calibration of Modern Neural Networks", 2017
SCORES = ("precision", "recall", "f1")  # of a class
_CONFUSIONS = 3  # pairs of classes in a sentence


def evaluated(frames: RunFrames) -> RunFrames:
    """The run whose model is judged: the final training of a search, else the run itself."""
    return final_run(frames) or frames


@once_per_run
def predictions(frames: RunFrames) -> pd.DataFrame | None:
    """What the model of the run, or of its final training, says of each test image, see `PredictionRow`; indexed by the
    image's place in the test set. None where no model has been judged yet."""
    found = read_predictions(evaluated(frames).path)
    return None if found is None or found.empty else found


def confusion_matrix(predictions: pd.DataFrame) -> pd.DataFrame:
    """Images by class (the index) and the class that the model finds likeliest (the columns), all classes in both."""
    classes = sorted({*predictions["label"], *predictions["predicted"]})
    counts = pd.crosstab(predictions["label"], predictions["predicted"])
    return counts.reindex(index=classes, columns=classes, fill_value=0)


def class_metrics(predictions: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall, F1 (each in [0, 1], 0 where there is nothing to divide by) and images, indexed by class; the
    definitions are scikit-learn's `precision_recall_fscore_support`."""
    matrix = confusion_matrix(predictions)
    right, images, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    table = pd.DataFrame({"precision": right / found, "recall": right / images, "f1": 2 * right / (images + found)})
    return table.fillna(0.0).assign(images=images)


CLASS_COLUMNS = ("class", "precision", "recall", "F1", "images")


def class_rows(predictions: pd.DataFrame) -> list[list[str]]:
    """The `class_metrics` for a person, columns `CLASS_COLUMNS`, the lowest F1 first."""
    classes = class_metrics(predictions).sort_values("f1", kind="stable")
    return [
        [str(name), *(percent(row[score]) for score in SCORES), f"{row['images']:,.0f}"]
        for name, row in classes.iterrows()
    ]


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """How often the model is right by how sure it is: columns images, confidence (mean) and accuracy, both in [0, 1];
    a row for each of `BINS` equal ranges of confidence that has images."""
    right = predictions["label"] == predictions["predicted"]
    bins = np.ceil(predictions["confidence"] * BINS)  # each includes its upper end
    groups = predictions.assign(accuracy=right).groupby(bins)
    return groups.agg(images=("accuracy", "size"), confidence=("confidence", "mean"), accuracy=("accuracy", "mean"))


def calibration_error(predictions: pd.DataFrame) -> float:
    """Expected calibration error, in [0, 1]: the mean over all images of the difference between confidence and accuracy
    of their bin (Guo et al., 2017)."""
    bins = reliability(predictions)
    return float(np.average((bins["confidence"] - bins["accuracy"]).abs(), weights=bins["images"]))


def evaluation_sentences(predictions: pd.DataFrame) -> list[str]:
    """Which classes are taken for which, and how far the model's confidence can be trusted."""
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    pairs = wrong.groupby(["label", "predicted"], as_index=False).size()
    pairs = pairs.sort_values("size", ascending=False, kind="stable").head(_CONFUSIONS)
    named = ", ".join(f"{row.label} for {row.predicted} ({row.size:,})" for row in pairs.itertuples())
    told = [f"Most often mistaken: {named}."] if named else []
    sure, right = predictions["confidence"].mean(), (predictions["label"] == predictions["predicted"]).mean()
    is_sure = f"The model is {percent(sure)} sure on average and right on {percent(right)} of"
    error = f"expected calibration error {100 * calibration_error(predictions):.2f} points"
    return [*told, f"{is_sure} {counted(len(predictions), 'test image')}: {error}."]
