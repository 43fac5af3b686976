"""Confirmations without a number of seeds, and at other sizes, on made-up figures: when they end, what they say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from factories import SPEC, Build

from tune_resnet.analysis import main as analysis
from tune_resnet.commands import confirm
from tune_resnet.config.sections import TUNABLE
from tune_resnet.data import load
from tune_resnet.data.types import Dataset
from tune_resnet.execution.training_pool import Training
from tune_resnet.results.confirmation import confirmation_sentence, confirmations
from tune_resnet.results.next_steps import next_steps
from tune_resnet.results.page import write_report
from tune_resnet.runs.load import load_frames
from tune_resnet.runs.tables import CONFIRM_DTYPES, FINISHED, REFERENCE, SIZE, WINNER
from tune_resnet.search import main
from tune_resnet.training.speed import Speed

CLEAR = (0.010, 0.011, 0.009)  # differences that are clear with the third pair
UNCLEAR = (0.01, -0.01)


class Pool:
    """Stands for `train_all`: ends the trainings in any order, with given differences of winner and reference."""

    def __init__(self) -> None:
        self.differences: Sequence[float] = CLEAR
        self.order: Callable[[Sequence[Training]], Sequence[int]] = lambda trainings: range(len(trainings))
        self.broken: set[tuple[int, bool]] = set()  # seed, and whether the winner: no result
        self.diverged: set[int] = set()  # seeds of the winner
        self.trained: list[tuple[int, str]] = []  # seed and checkpoint
        self.sizes: list[tuple[int, int, int]] = []  # width, images and epochs, of each command

    def __call__(
        self,
        spec: Any,
        data: Any,
        trainings: Sequence[Training],
        concurrency: int,
        timeout: float,
        stop: Any,
        again: Any,
    ) -> Iterator[tuple[int, dict[str, Any] | str]]:
        self.sizes.append((spec.model.width, len(data.train), trainings[0].spec.train.epochs))
        for position in self.order(trainings):
            if stop():
                return
            train = trainings[position].spec.train
            is_winner = train.max_lr != SPEC.train.max_lr
            self.trained.append((train.seed, trainings[position].checkpoint.name))
            if (train.seed, is_winner) in self.broken:
                yield position, "its process died"
                continue
            accuracy = 0.5 + is_winner * self.differences[(train.seed - 1000) % len(self.differences)]
            error = "the loss was not finite" if is_winner and train.seed in self.diverged else ""
            yield (
                position,
                {
                    "seed": train.seed,
                    **{name: getattr(train, name) for name in TUNABLE},
                    "epochs": train.epochs,
                    "test_accuracy": None if error else accuracy,
                    "test_loss": 0.5,
                    "worker": "host:1",
                    "error": error,
                },
            )


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, digits: Dataset) -> Pool:
    """Everything but the trainings is real; neither Ray nor a measurement of speed."""
    made = Pool()
    monkeypatch.setattr(confirm, "train_all", made)
    monkeypatch.setattr(confirm, "ray_cluster", lambda address: nullcontext())
    resources = "tune_resnet.execution.resources"
    monkeypatch.setattr(f"{resources}.ray.cluster_resources", dict)
    monkeypatch.setattr(f"{resources}.ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setattr(
        f"{resources}._measure",
        lambda spec, data: Speed(device_name="a chip", precision="fp32", images_per_second=1000.0),
    )
    monkeypatch.setattr(load, "load_dataset", lambda spec: digits)
    return made


@pytest.fixture
def run(tmp_path: Path, digits: Dataset) -> Path:
    """A search on 1,294 + 144 digits, whose trial 1 has won."""
    build = Build(tmp_path / "it")
    build.directory.write_env(
        {"kind": "search", "dataset_fingerprint": digits.fingerprint, "train_images": 1294, "held_out_images": 144}
    )
    build.trial([0.5, 0.6, 0.7, 0.8], FINISHED)
    build.trial([0.5, 0.6, 0.7, 0.9], FINISHED, max_lr=0.03)
    build.recorder.close()
    return build.directory.path


def confirmed(run: Path, *arguments: object) -> int:
    return main(["--confirm", *map(str, arguments), "--resume", str(run)])


def pairs(run: Path) -> list[int]:
    """The seeds that both have been trained with."""
    seeds = pd.read_csv(run / "confirm.csv")["seed"].value_counts()
    return sorted(seeds.index[seeds == 2])


def assert_all_say(run: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Terminal, tables, page and confirm.json have one sentence, with these words."""
    told = capsys.readouterr().out
    sentence = next(line for line in told.splitlines() if words in line)
    assert sentence in {confirmation_sentence(one) for one in confirmations(load_frames(run))}
    assert json.loads((run / "confirm.json").read_text())["sentence"] == sentence
    assert analysis([str(run)]) == 0
    assert sentence in capsys.readouterr().out
    assert (
        sentence.replace("+", "&#43;") in write_report([run]).read_text() or sentence in write_report([run]).read_text()
    )


def test_it_ends_with_the_pair_that_makes_it_clear(run: Path, pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    assert confirmed(run) == 0
    assert pairs(run) == [1000, 1001, 1002]
    summary = json.loads((run / "confirm.json").read_text())
    assert (summary["n"], summary["verdict"], summary["sequential"], summary["p_value"]) == (3, "better", True, None)
    assert summary["seeds"] == [1000, 1001, 1002]
    assert_all_say(run, "Trial 1 is better than the reference: +1.00 percentage points on 359 test images", capsys)
    found = confirmations(load_frames(run))[0]
    assert found.result is not None
    assert {name: summary[name] for name in asdict(found.result)} == asdict(found.result)

    trained = len(pool.trained)
    assert confirmed(run) == 0  # says it again
    assert len(pool.trained) == trained
    assert "looked at after each pair, which the interval allows for" in capsys.readouterr().out


def test_it_ends_with_the_last_look_where_it_is_not_clear(
    run: Path, pool: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    pool.differences = UNCLEAR
    assert confirmed(run) == 0
    assert len(pairs(run)) == 10
    told = capsys.readouterr().out
    assert "at most 20 trainings of ResNet9, width 64, on 1,438 images" in told
    assert [line.split()[1] for line in told.splitlines() if line.startswith("after ")] == [*"3456789", "10"]
    assert "are not distinguishable with 10 pairs" in told
    assert "No more pairs are added." in told
    assert not confirmations(load_frames(run))[0].goes_on


def test_the_verdict_does_not_depend_on_which_training_ends_first(
    run: Path, pool: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with many processes: pair 3 is the last to end, and pair 4 alone would have changed the verdict."""
    pool.differences = (*CLEAR, -0.05, 0.03, 0.02)
    pool.order = lambda trainings: [0, 1, 6, 7, 2, 3, 8, 5, 4, 9, 10]
    assert confirmed(run) == 0
    assert len(pool.trained) == 9
    found = confirmations(load_frames(run))[0]
    assert found.result is not None
    assert [found.result.n, found.result.verdict, found.result.mean] == [3, "better", pytest.approx(1)]
    assert list(found.pairs.index) == [1000, 1001, 1002]
    assert "and those after the last look do not count: seed 1003, 1004." in capsys.readouterr().out


def test_ctrl_c_and_a_pair_without_result_are_gone_on_with(
    run: Path, pool: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    pool.differences, pool.broken = UNCLEAR, {(1003, True)}
    assert confirmed(run) == 0
    assert pairs(run) == [1000, 1001, 1002]
    assert len(pool.trained) == 7  # there is no look beyond it
    told = capsys.readouterr().out
    assert "are not yet distinguishable with 3 pairs" in told
    assert "Pairs are added up to 10." in told
    pool.broken, pool.differences = set(), (0.01, -0.01, 0.01, 0.0100001)
    assert confirmed(run) == 0
    assert pool.trained[7][0] == 1003
    assert len(pairs(run)) == 10


def test_a_pair_that_diverged_is_passed_over(run: Path, pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    pool.diverged = {1001}
    assert confirmed(run) == 0
    assert json.loads((run / "confirm.json").read_text())["seeds"] == [1000, 1002, 1003]
    assert "do not count: seed 1001." in capsys.readouterr().out


def test_after_looks_no_number_can_be_fixed(run: Path, pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    assert confirmed(run) == 0
    capsys.readouterr()
    for number in (2, 5):
        assert confirmed(run, number) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: trial 1 is being confirmed with a look after each pair")
        assert error.count("\n") == 1


def test_after_a_number_all_pairs_are_looked_at(run: Path, pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    pool.differences = (0.010, 0.012, 0.004, -0.001, 0.011)
    assert confirmed(run, 5) == 0
    fixed = confirmations(load_frames(run))[0]
    assert fixed.result is not None
    assert (fixed.sequential, fixed.result.p_value) == (False, 0.125)
    pool.differences = CLEAR
    rows = pd.read_csv(run / "confirm.csv")
    rows["test_accuracy"] = [
        0.5 + (name == WINNER) * CLEAR[(seed - 1000) % 3]
        for seed, name in zip(rows["seed"], rows["configuration"], strict=True)
    ]
    rows.to_csv(run / "confirm.csv", index=False, lineterminator="\n")
    capsys.readouterr()
    assert confirmed(run) == 0  # nothing is left to train, and all views change together
    assert len(pool.trained) == 10
    assert json.loads((run / "confirm.json").read_text())["n"] == 3
    assert_all_say(run, "over 3 paired seeds; looked at after each pair", capsys)


@pytest.mark.parametrize("seeds", [(), (3,)])
def test_a_verdict_that_was_not_written_is_written_by_the_next_command(
    seeds: tuple[int, ...], run: Path, pool: Pool, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a command that died after its last training: without confirm.json, or with that of fewer pairs."""
    assert confirmed(run, *seeds) == 0
    written = json.loads((run / "confirm.json").read_text())
    (run / "confirm.json").unlink()
    capsys.readouterr()
    assert confirmed(run, *seeds) == 0
    assert_all_say(run, "Trial 1 is better than the reference: +1.00 percentage points on 359 test images", capsys)
    again = json.loads((run / "confirm.json").read_text())
    assert {**written, **again} == written
    fewer = {**written, "n": 2, "seeds": [1000, 1001], "sentence": "of two pairs"}
    (run / "confirm.json").write_text(json.dumps(fewer))
    assert confirmed(run, *seeds) == 0
    assert json.loads((run / "confirm.json").read_text()) == again


def test_another_size_has_a_verdict_of_its_own(run: Path, pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    assert confirmed(run) == 0
    own = json.loads((run / "confirm.json").read_text())
    capsys.readouterr()
    pool.differences = (-0.010, -0.011, -0.009)
    assert confirmed(run, "--width", 32, "--limit-train", 900) == 0
    assert_all_say(run, "Trial 1 is worse than the reference at width 32 on 900 training images: -1.00", capsys)
    found = confirmations(load_frames(run))
    assert [one.place for one in found] == ["", " at width 32 on 900 training images"]
    assert found[0].result is not None
    assert found[0].result.mean == pytest.approx(own["mean"])
    rows = pd.read_csv(run / "confirm.csv")
    assert list(rows.columns) == list(CONFIRM_DTYPES)
    assert rows.groupby(list(SIZE)).size().to_dict() == {(32, 900, 4): 6, (64, 1438, 4): 6}
    assert confirmed(run, 2, "--epochs", 2) == 0  # a number, at a size that has not been looked at
    assert "worse than the reference at width 64 on 1,438 training images for 2 epochs" in capsys.readouterr().out
    assert pool.sizes == [(64, 1438, 4), (32, 900, 4), (64, 1438, 2)]
    assert len({name for _, name in pool.trained}) == len(pool.trained) == 16  # no checkpoint of two trainings


def test_what_was_confirmed_larger_is_finalized_as_large(run: Path, pool: Pool) -> None:
    assert confirmed(run) == 0
    assert next_steps(load_frames(run))["finalize it"].endswith(f"--finalize {run}")
    assert confirmed(run, "--width", 65, "--epochs", 5) == 0
    assert next_steps(load_frames(run))["finalize it"].endswith(f"--finalize {run} --width 65 --epochs 5")
    pool.differences = [-one for one in CLEAR]
    assert confirmed(run, "--width", 66) == 0  # worse
    assert next_steps(load_frames(run))["finalize it"].endswith(f"--finalize {run} --width 65 --epochs 5")


def test_where_the_folder_has_a_validation_set_the_limit_is_of_the_others(run: Path, pool: Pool) -> None:
    env = json.loads((run / "env.json").read_text())
    (run / "env.json").write_text(json.dumps({**env, "own_validation_images": 144}))
    assert confirmed(run, "--limit-train", 900) == 0  # here 900 with those 144
    assert next_steps(load_frames(run))["finalize it"].endswith(f"--finalize {run} --limit-train 756")


def test_where_the_winner_is_worse_the_reference_is_what_to_use(run: Path, pool: Pool) -> None:
    pool.differences = [-one for one in CLEAR]
    assert confirmed(run) == 0
    steps = next_steps(load_frames(run))
    assert "finalize it" not in steps
    assert steps["reference"].endswith(f"--finalize {run} --trial 0")


def test_the_page_s_headline_says_the_size(run: Path, pool: Pool) -> None:
    assert confirmed(run, "--width", 32) == 0
    page = write_report([run]).read_text()
    assert "Proven: +1.00 points, 95% interval 0.14 to 1.86 at width 32 on 1,438 training images" in page.replace(
        "&#43;", "+"
    )


def test_it_waits_for_a_cluster_that_grows(run: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_resnet.execution.resources.ray.nodes", list)  # no worker is there yet
    assert confirmed(run, "--max-concurrent", 2) == 2
    assert confirmed(run, "--max-concurrent", 2, "--address", "head:1") == 0


def test_checkpoints_of_another_size_stay(run: Path, pool: Pool) -> None:
    folder = run / "checkpoints"
    stay = folder / "confirm-00001-1002-32-1438-4.pt"
    gone = [
        folder / f"confirm-{name}.pt"
        for name in ("00007-1000-32-1438-4", "00001-1011-64-1438-4", "00001-1003-64-1438-4", "00001-1000")
    ]
    for path in (stay, *gone):
        path.touch()
    assert confirmed(run) == 0
    assert stay.exists()
    assert not any(path.exists() for path in gone)


def test_confirmations_from_before_there_were_sizes_and_looks(run: Path, pool: Pool) -> None:
    """Have their search's size and a number of pairs, and can be extended."""
    columns = [name for name in CONFIRM_DTYPES if name not in (*SIZE, "rule")]
    rows = [
        (seed, name, max_lr, 1e-4, 0.1, 4, 0.5 + (name == WINNER) * CLEAR[seed - 1000], 0.5, 1.5, "host:1", "")
        for seed in (1000, 1001)
        for name, max_lr in ((REFERENCE, 0.01), (WINNER, 0.03))
    ]
    pd.DataFrame(rows, columns=columns).to_csv(run / "confirm.csv", index=False, lineterminator="\n")
    (one,) = confirmations(load_frames(run))
    assert (one.size, one.place, one.sequential) == ({"width": 64, "train_images": 1438, "of_epochs": 4}, "", False)
    assert confirmed(run, 3) == 0
    assert [seed for seed, _ in pool.trained] == [1002, 1002]
    (one,) = confirmations(load_frames(run))
    assert len(one.pairs) == 3


def test_a_run_is_not_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--confirm", "runs/it"]) == 2
    assert capsys.readouterr().err == (
        "error: argument --confirm: 'runs/it' is not a number of seeds; a run is named by --resume\n"
    )
