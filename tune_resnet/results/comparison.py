"""The winner beside the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tune_resnet._text import percent
from tune_resnet.config.sections import ACCURACY, BudgetSpec
from tune_resnet.hpo.ranking import finished_trials
from tune_resnet.runs.load import RunFrames, accuracy_column, image_count, once_per_run
from tune_resnet.runs.reading import records
from tune_resnet.runs.tables import REFERENCE_TRIAL

CASES = (
    NOTHING,  # no trial has finished
    UNKNOWN,  # the reference has not finished
    REFERENCE_ALONE,  # no other trial has finished
    REFERENCE_WINS,
    WON,  # the winner has measured better than the reference
    EQUAL,  # as well
    LOST,  # worse: chosen for its estimate all the same
) = ("nothing", "unknown", "reference alone", "reference wins", "won", "equal", "lost")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The winner beside the reference; None is what is not known (yet).

    Both are judged on the same images and trained once, with one seed. The winner was chosen among `finished` noisy
    figures, so `gain` is biased upward (the winner's curse); `estimated_gain` less so, for the winner is the finished
    trial with the highest estimate, see `estimates`.
    """

    finished: int  # trials with all their epochs
    search: BudgetSpec  # its objective judges
    judged_on: str  # "validation" or "test" images
    images: int | None  # how many
    winner: int | None
    winner_accuracy: float | None  # in [0, 1]; or what else judges
    reference_state: str | None  # None: not started
    reference_accuracy: float | None  # in [0, 1]; None: not finished
    gain: float | None  # percentage points
    estimated_gain: float | None  # percentage points
    standard_error: float | None  # of `gain`, percentage points; see `_standard_error`

    @property
    def reached(self) -> str:
        """What the winner has reached, for a person."""
        return f"{percent(self.winner_accuracy)} {self.judged_on} {self.search.judged_by}"

    @property
    def case(self) -> str:
        """How it stands between winner and reference, one of `CASES`."""
        if self.winner is None:
            return NOTHING
        if self.gain is None:
            return UNKNOWN
        if self.winner == REFERENCE_TRIAL:
            return REFERENCE_WINS if self.finished > 1 else REFERENCE_ALONE
        return WON if self.gain > 0 else LOST if self.gain < 0 else EQUAL


@once_per_run
def compare_to_reference(frames: RunFrames) -> Comparison:
    """The winner against the reference of the same run."""
    column = accuracy_column(frames)
    finished = records(finished_trials(frames))
    best = finished[0] if finished else None
    reference = next((row for row in finished if row["reference"]), None)
    states = frames.trials.set_index("trial")["state"]
    images = image_count(frames.env.get("held_out_images"))
    gain = estimated_gain = error = None
    if best is not None and reference is not None:
        gain = 100 * (best[column] - reference[column])
        estimated_gain = 100 * (best["estimate"] - reference["estimate"])
        if images is not None and frames.spec.search.objective == ACCURACY:  # of which a binomial error is known
            error = _standard_error(best[column], reference[column], images)
    return Comparison(
        finished=len(finished),
        search=frames.spec.search,
        judged_on="test" if column.startswith("test") else "validation",
        images=images,
        winner=None if best is None else int(best["trial"]),
        winner_accuracy=None if best is None else float(best[column]),
        reference_state=states.get(REFERENCE_TRIAL),
        reference_accuracy=None if reference is None else float(reference[column]),
        gain=gain,
        estimated_gain=estimated_gain,
        standard_error=error,
    )


def trial_subject(trial: int) -> str:
    """A trial at the beginning of a sentence."""
    return "The reference" if trial == REFERENCE_TRIAL else f"Trial {trial}"


def _standard_error(first: float, second: float, images: int) -> float:
    """Standard error, in percentage points, of the difference of two accuracies due to the choice of images.

    Binomial, as if each had its own images; on the same images, where both find the same ones hard, it is smaller. One
    right and one wrong image are added to each (Agresti and Caffo, 2000), so that 100% does not look certain.
    """
    shares = [(accuracy * images + 1) / (images + 2) for accuracy in (first, second)]
    return 100 * math.sqrt(sum(share * (1 - share) for share in shares) / (images + 2))
