"""What a run has found, in sentences."""

from __future__ import annotations

import math
import time

import scipy

from tune_resnet._text import counted, duration, percent
from tune_resnet.config.sections import ACCURACY
from tune_resnet.hpo.ranking import final_run, trial_of
from tune_resnet.results.comparison import (
    EQUAL,
    NOTHING,
    REFERENCE_ALONE,
    REFERENCE_WINS,
    UNKNOWN,
    WON,
    Comparison,
    compare_to_reference,
    trial_subject,
)
from tune_resnet.results.confirmation import confirmation_sentence, confirmations
from tune_resnet.results.edges import edge_sentences, edges
from tune_resnet.runs.directory import FINAL, SEARCH
from tune_resnet.runs.load import RunFrames, image_count
from tune_resnet.runs.tables import FINISHED, RUNNING


def run_sentences(frames: RunFrames, figures: bool = True) -> list[str]:
    """All that a run has found: what its final training has reached, its confirmations, winner beside reference, and
    whether its space is too narrow (then `widening_commands` has what to do). Without `figures`, not what `evidence`
    has in a table."""
    final = final_run(frames)
    told = [comparison_sentence(final)] if final else []
    found = [
        confirmation_sentence(one) for one in confirmations(frames) if figures or not (one.of_winner and one.result)
    ]
    found += [comparison_sentence(frames)] if figures else []
    return [*told, *found, *edge_sentences(edges(frames))]


def comparison_sentence(frames: RunFrames) -> str:
    """What the run says about the winner and the reference, and how far that can be trusted."""
    found = compare_to_reference(frames)
    best = found.reached
    if frames.kind != SEARCH:
        return _single_sentence(frames, found)
    if found.case == NOTHING:
        return "No trial has finished yet, so there is nothing to compare with the reference."
    if found.case == UNKNOWN:
        state = {
            None: "has not started",
            RUNNING: "is still running",
            FINISHED: f"has no {found.search.judged_by}",
        }.get(found.reference_state, f"did not finish ({found.reference_state})")
        return f"Trial {found.winner} is the best so far with {best}. The reference {state}, so the gain is not known."
    if found.case == REFERENCE_ALONE:
        return f"The reference reached {best}. No other trial has finished."
    if found.case == REFERENCE_WINS:
        others = found.finished - 1
        none = f"none of the {others:,} other finished trials is" if others > 1 else "the other finished trial is not"
        return f"The reference itself is the winner with {best}: {none} expected to beat it."
    return f"{_measured(found)} {_expected(found)}"


def _single_sentence(frames: RunFrames, found: Comparison) -> str:
    """What a single training has reached."""
    trial = trial_of(frames)
    if trial is None:
        return "The training has not finished."
    name, trained = trial_subject(trial["trial"]), image_count(frames.env.get("train_images"))
    width = "" if frames.spec.model.factory else f" at width {frames.spec.model.width}"
    again = f"trained again{width} for {counted(frames.spec.train.epochs, 'epoch')}"
    again += "" if trained is None else f" on {trained:,} images"
    if found.winner is None:
        return f"{name} was {again}. There are no test images to judge it on."
    if frames.kind == FINAL:
        name += f", {again},"
    images = f"{found.judged_on} images" if found.images is None else f"{found.images:,} {found.judged_on} images"
    interval, accuracy = "", float(trial[f"{'test' if found.judged_on == 'test' else 'val'}_{ACCURACY}"])
    if found.images is not None and not math.isnan(accuracy):
        right = round(accuracy * found.images)
        low, high = scipy.stats.binomtest(right, found.images).proportion_ci(method="wilson")  # Wilson (1927), 95%
        interval = f" (95% interval from the choice of images {percent(low)} to {percent(high)})"
    if found.search.objective != ACCURACY:
        name += f" reached {found.reached} and"
    return f"{name} classified {percent(accuracy)} of the {images} correctly{interval}."


def _measured(found: Comparison) -> str:
    """What winner and reference have reached."""
    images = "the same images" if found.images is None else f"the same {found.images:,} images"
    noise = "one seed each"
    if found.standard_error is not None:
        noise += f"; standard error from the choice of images about {found.standard_error:.2f} points or less"
    if found.case == EQUAL:
        return f"Trial {found.winner} and the reference both reached {found.reached} on {images} ({noise})."
    return (
        f"Trial {found.winner} reached {found.reached}, the reference {percent(found.reference_accuracy)}: "
        f"{found.gain:+.2f} percentage points on {images} ({noise})."
    )


def _expected(found: Comparison) -> str:
    """What the winner is expected to be worth on other images."""
    if found.case == WON:
        lucky = f"The best of {found.finished:,} finished trials is probably a lucky one: expect a smaller gain."
        if found.estimated_gain == found.gain:  # too few have finished, or the loss says nothing
            return lucky
        return f"By accuracy and loss together, the gain is about {found.estimated_gain:+.2f} points. {lucky}"
    return (
        f"It is the winner because, by accuracy and loss together, it is expected to be better by about "
        f"{found.estimated_gain:.2f} points."
    )


def progress_words(run: RunFrames) -> str:
    """Whether a run goes on, in a few words."""
    if not run.active:
        return "not running" + (" (it ended without saying so; --resume goes on)" if run.has_running else "")
    last = run.epochs["ended_at"].max() if run.has_running else math.nan
    return "still running" + ("" if math.isnan(last) else f", last epoch {duration(time.time() - last)} ago")
