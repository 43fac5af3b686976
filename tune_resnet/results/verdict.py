"""A run's answer in a line, and the figures that it rests on: observed, estimated, confirmed."""

from __future__ import annotations

from dataclasses import dataclass

from tune_resnet._text import counted, percent
from tune_resnet.hpo.ranking import finished_trials, is_smoothed, trial_of, winner
from tune_resnet.results.comparison import (
    EQUAL,
    LOST,
    NOTHING,
    REFERENCE_ALONE,
    REFERENCE_WINS,
    UNKNOWN,
    Comparison,
    compare_to_reference,
    trial_subject,
)
from tune_resnet.results.confirmation import Confirmation, how_sure, winner_results
from tune_resnet.results.paired_test import BETTER, WORSE, PairedResult
from tune_resnet.runs.directory import SEARCH
from tune_resnet.runs.load import RunFrames
from tune_resnet.runs.tables import REFERENCE, REFERENCE_TRIAL, WINNER

TONES = GOOD, OPEN, BAD = "good", "open", "bad"


@dataclass(frozen=True)
class Verdict:
    """What is known about winner and reference: `tone`, one of `TONES`, and a headline."""

    tone: str
    headline: str


def verdict(frames: RunFrames) -> Verdict:
    """What the confirmation of the winner has shown; without one, what was measured, and that it is not confirmed."""
    found = compare_to_reference(frames)
    if frames.kind != SEARCH:
        return Verdict(OPEN, _single(frames, found))
    if confirmed := winner_results(frames):
        return _confirmed(*confirmed[0])
    so_far = " so far" if frames.active and frames.has_running else ""
    if found.case == NOTHING:
        return Verdict(OPEN, "No trial has finished yet")
    if found.case == UNKNOWN:
        return Verdict(OPEN, f"The gain is not known: the reference has not finished{so_far and ' yet'}")
    if found.case == REFERENCE_ALONE:
        return Verdict(OPEN, "Only the reference has finished")
    if found.case == REFERENCE_WINS:
        return Verdict(OPEN, f"No better than the reference{so_far}")
    points = f"{found.gain:+.2f} points{found.search.of_what}"
    how = {EQUAL: "level with the reference", LOST: f"{points}, estimated {found.estimated_gain:+.2f},"}
    yet = " yet" if frames.env.get("test_set", True) else ""
    return Verdict(OPEN, f"Not confirmed{yet}: {how.get(found.case, points)} as measured{so_far}")


def _single(frames: RunFrames, found: Comparison) -> str:
    """Of a training without a search."""
    trial = trial_of(frames)
    if trial is None:
        return "The training has not finished"
    whose = trial_subject(trial["trial"])
    return whose if found.winner is None else f"{whose}: {found.reached}"


def _confirmed(confirmation: Confirmation, result: PairedResult) -> Verdict:
    tone, words = {BETTER: (GOOD, "Proven"), WORSE: (BAD, "Worse than the reference")}.get(
        result.verdict, (OPEN, "Not proven yet" if confirmation.goes_on else "Not proven")
    )
    interval = "" if result.low is None else f", 95% interval {result.low:.2f} to {result.high:.2f}"
    return Verdict(
        tone, f"{words}: {result.mean:+.2f} points{confirmation.search.of_what}{interval}{confirmation.place}"
    )


def evidence_columns(frames: RunFrames) -> list[str]:
    """The headings of `evidence`."""
    return ["what", "winner", "reference", f"gain in points{frames.spec.search.of_what}", "from"]


def evidence(frames: RunFrames) -> list[list[str]]:
    """The figures behind the verdict, columns as in `evidence_columns`: what was observed in the search, what accuracy
    and loss say together, where they count so, and each confirmation of the winner, or that there is none. No rows
    where winner and reference are not both known.
    """
    found, best = compare_to_reference(frames), winner(frames)
    if frames.kind != SEARCH or found.gain is None or best is None or found.winner == REFERENCE_TRIAL:
        return []
    finished = finished_trials(frames)
    reference = finished.loc[finished["reference"], "estimate"].item()
    images = "the same images" if found.images is None else f"the same {found.images:,} {found.judged_on} images"
    error = "" if found.standard_error is None else f", standard error about {found.standard_error:.2f} or less"
    observed = [percent(found.winner_accuracy), percent(found.reference_accuracy), f"{found.gain:+.2f}"]
    estimated = [percent(best["estimate"]), percent(reference), f"{found.estimated_gain:+.2f}"]
    lucky = f"the best of {found.finished:,} is probably a lucky one: expect less"
    confirmed = [_confirmed_row(*found) for found in winner_results(frames)]
    can_be = frames.env.get("test_set", True)
    none = "no verdict yet: see the command to confirm it" if can_be else "nothing: there are no test images"
    seen = f"{images}, one seed each{error}"
    searched = [["observed", *observed, f"{seen}; {lucky}"]]
    if is_smoothed(frames):
        together = ["estimated", *estimated, f"accuracy and loss together; {lucky}"]
        searched = [["observed", *observed, seen], together]
    return [
        *searched,
        *(confirmed or [["confirmed", "-", "-", "-", none]]),
    ]


def _confirmed_row(confirmation: Confirmation, result: PairedResult) -> list[str]:
    means = confirmation.pairs[[WINNER, REFERENCE]].mean()
    interval = "" if result.low is None else f" ({result.low:.2f} to {result.high:.2f})"
    return [
        f"confirmed{confirmation.place}",
        percent(means[WINNER]),
        percent(means[REFERENCE]),
        f"{result.mean:+.2f}{interval}",
        f"{confirmation.judged_on}, {counted(result.n, 'fresh seed')} that both share; {how_sure(result)}",
    ]
