"""Token columns and several rewards in whole runs: the objective gets the numbers of the functions.

On policy, `mean[p,i] sum[t] (pi / mu * A)` is the mean of the advantages' sums, and divided by the
lengths of turns, that of the turns' advantages. They are computed here from the samples that the
run has written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from helpers import training_ranks
from helpers.two_processes import run_two
from objdsl.runtime.data.rewards import RewardError
from objdsl.runtime.run.dry_run import dry_run
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config, ConfigError

Run = Callable[..., Result]
Numbers = Callable[[Path], list[dict[str, float]]]
Settings = Callable[..., Config]
Row = dict[str, Any]

TWO_TURNS = """objective two_turns
given turn[p,i,t] in {1, 2}
given first[p,i] in {0, 1} as reward
given second[p,i] in {0, 1} as reward
A1 = first + second - mean[j != i] (first + second)
A2 = second - mean[j != i] second
A = A1 if turn == 1 else A2
report in_turn_2 = mean[p,i,t] (turn == 2)
report credit = mean[p,i] sum[t] (abs(A) / (sum[t by turn] 1))
maximize mean[p,i] sum[t] (pi / mu * A / (sum[t by turn] 1))
"""
PROCESS = """objective process
given progress[p,i,t] in [0, 1] as reward
R = sum[s >= t] progress
report earned = mean[p,i] sum[t] progress
maximize mean[p,i] sum[t] (pi / mu * (R + t - 1))
"""
SEVERAL = """objective several
given correct[p,i] in {0, 1} as reward
given format[p,i] in [0, 1] as reward
given progress[p,i,t] as reward
A = correct - mean[j != i] correct + 0.2 * (format - mean[i] format) / (std[i] format + 1)
maximize mean[p,i] sum[t] (pi / mu * (A + progress))
"""
GROUP = 8
MORE = {
    "steps": 3, "sampler.prompts": 6, "sampler.group": GROUP, "report.samples_every": 1,
    "warm_start.steps": 30, "warm_start.batch": 32, "checkpoint.every": 1,
}  # fmt: skip
TURNS = {**MORE, "task.name": "second_try", "rewards": {"turns": 1.0}}
JUDGED = {**TURNS, "rewards": {"helpers.reward_functions:judged_by_token": 1.0}}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def to_file(text: str) -> str:
        path = tmp_path / f"{text.split()[1]}.obj"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return to_file


def samples(folder: Path) -> list[list[list[Row]]]:
    """The groups of each step, in the order in which they were sampled."""
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    steps = [[row for row in rows if row["step"] == k] for k in range(1, rows[-1]["step"] + 1)]
    return [[step[k : k + GROUP] for k in range(0, len(step), GROUP)] for step in steps]


def others(group: list[Row], k: int, name: str) -> float:
    return fmean(row[name] for j, row in enumerate(group) if j != k)


def learned(row: Row, name: str) -> list[float]:
    """A column of the tokens that are not masked."""
    mask = row.get("loss_mask", [1] * len(row[name]))
    return [x for x, live in zip(row[name], mask, strict=True) if live]


def togo(values: list[float]) -> list[float]:
    return [sum(values[t:]) for t in range(len(values))]


def compare(
    folder: Path, numbers: Numbers, name: str, by_hand: Callable[..., float]
) -> list[float]:
    """A metric of every step, and the same computed from its samples."""
    steps = [step for step in numbers(folder) if step["step"]]
    values = [step[name] for step in steps]
    assert len(values) == 3
    assert values == pytest.approx([by_hand(groups) for groups in samples(folder)], abs=2e-4)
    return values


def test_two_turns_are_credited_separately(
    run: Run, numbers: Numbers, write: Callable[[str], str]
) -> None:
    def credits(groups: list[list[Row]]) -> list[float]:
        """The advantage of every turn that has tokens, 0 for turns that have none."""
        turns = []
        for group in groups:
            for k, row in enumerate(group):
                second = row["second"] - others(group, k, "second")
                first = row["first"] - others(group, k, "first") + second
                turns += [first, second * (2 in learned(row, "turn"))]
        return turns

    def value(groups: list[list[Row]]) -> float:
        return 2 * fmean(credits(groups))

    def credit(groups: list[list[Row]]) -> float:
        return 2 * fmean(map(abs, credits(groups)))

    def in_turn_2(groups: list[list[Row]]) -> float:
        turns = [x for group in groups for row in group for x in learned(row, "turn")]
        return fmean(x == 2 for x in turns)

    def unmasked(groups: list[list[Row]]) -> float:
        return fmean(x for group in groups for row in group for x in row["loss_mask"])

    result = run(write(TWO_TURNS), **TURNS | {"warm_start.lr": 2e-2, "warm_start.steps": 100})
    compare(result.folder, numbers, "objective", value)
    assert all(x > 1e-2 for x in compare(result.folder, numbers, "credit", credit))
    assert all(0 < x < 1 for x in compare(result.folder, numbers, "in_turn_2", in_turn_2))
    assert all(0 < x < 1 for x in compare(result.folder, numbers, "loss_mask", unmasked))
    rows = [row for step in samples(result.folder) for group in step for row in group]
    complete = 0
    for row in rows:
        texts, tokens = row["response"].split(";", 2), len(row["turn"])
        if len(texts) == 3 and tokens < 10 and tokens == len(row["response"]) + 1:
            # Each character is a token, and so is the end.
            first, comment, second = map(len, texts)
            mask = [1.0] * (first + 1) + [0.0] * (comment + 1) + [1.0] * (second + 1)
            assert row["loss_mask"] == mask
            assert row["turn"] == [1.0] * (first + comment + 2) + [2.0] * (second + 1)
            complete += 1
    assert complete > 10


def test_process_rewards_reach_the_tokens_before_them(
    run: Run, numbers: Numbers, write: Callable[[str], str]
) -> None:
    def value(groups: list[list[Row]]) -> float:
        rows = [row["progress"] for group in groups for row in group]
        return fmean(sum(togo(row)) + sum(range(len(row))) for row in rows)

    def earned(groups: list[list[Row]]) -> float:
        return fmean(sum(row["progress"]) for group in groups for row in group)

    result = run(write(PROCESS), **MORE, rewards={"digits": 1.0})
    compare(result.folder, numbers, "objective", value)
    assert all(0 < x < 1 for x in compare(result.folder, numbers, "earned", earned))
    for step in samples(result.folder):
        for row in (row for group in step for row in group):
            assert (sum(row["progress"]) == pytest.approx(1)) == bool(row["reward"])


def test_masked_tokens_are_left_out_of_the_order(
    run: Run, numbers: Numbers, write: Callable[[str], str]
) -> None:
    """`t` counts the tokens that are learned from, and `sum[s >= t]` runs over them."""

    def value(groups: list[list[Row]]) -> float:
        rows = [learned(row, "progress") for group in groups for row in group]
        return fmean(sum(togo(row)) + sum(range(len(row))) for row in rows)

    result = run(write(PROCESS), **JUDGED)
    compare(result.folder, numbers, "objective", value)
    assert any(
        0 in row["loss_mask"] for step in samples(result.folder) for group in step for row in group
    )


def test_several_rewards(run: Run, numbers: Numbers, write: Callable[[str], str]) -> None:
    def value(groups: list[list[Row]]) -> float:
        sums = []
        for group in groups:
            formats = [row["format"] for row in group]
            for k, row in enumerate(group):
                A = row["correct"] - others(group, k, "correct")
                A += 0.2 * (formats[k] - fmean(formats)) / (stdev(formats) + 1)
                sums.append(sum(A + x for x in learned(row, "progress")))
        return fmean(sums)

    result = run(write(SEVERAL), **JUDGED)
    compare(result.folder, numbers, "objective", value)


@pytest.mark.parametrize(
    "more", [{"learner.micro_batch": 5}, {"learner.minibatches": 3, "learner.micro_batch": 7}]
)
def test_pieces_of_a_step_have_their_columns(
    run: Run, numbers: Numbers, tmp_path: Path, write: Callable[[str], str], more: dict[str, Any]
) -> None:
    file, double = write(TWO_TURNS), {**TURNS, "model.dtype": "float64", "learner.epsilon": 1e-3}
    pieces = {**double, **more}
    whole = {**pieces, "learner.micro_batch": None}
    together = run(file, output=tmp_path / "together", **whole)
    cut = run(file, output=tmp_path / "cut", **pieces)
    for step, other in zip(numbers(together.folder), numbers(cut.folder), strict=True):
        assert other == pytest.approx(step, rel=1e-6, abs=1e-9)


def test_a_resumed_run_has_the_same_columns(
    run: Run, numbers: Numbers, tmp_path: Path, write: Callable[[str], str]
) -> None:
    """Even where `keep` reads a column of tokens."""
    file = write(f"{TWO_TURNS}keep p where std[i] (mean[t] turn) > 0\n")
    more = {**TURNS, "sampler.resample": 9}
    straight = run(file, output=tmp_path / "straight", **more)
    halves = tmp_path / "halves"
    shutil.copytree(straight.folder, halves)
    shutil.rmtree(halves / "checkpoints" / "step-000003")  # as if it had crashed after step 2
    run(file, output=halves, _resume="auto", **more)
    assert numbers(halves) == numbers(straight.folder)
    assert samples(halves) == samples(straight.folder)


@pytest.mark.slow
def test_two_processes_are_one(
    settings: Settings, run: Run, numbers: Numbers, tmp_path: Path, write: Callable[[str], str]
) -> None:
    more = {**JUDGED, "model.dtype": "float64", "learner.epsilon": 1e-3, "sampler.prompts": 3}
    file = write(SEVERAL)
    alone = run(file, output=tmp_path / "alone", **more).folder
    config = settings(file, output=tmp_path / "ranks", **more)
    run_two(training_ranks.work, tmp_path, [(config.model_dump(), None)])
    for step, other in zip(numbers(alone), numbers(tmp_path / "ranks"), strict=True):
        assert other == pytest.approx(step, rel=1e-5, abs=1e-7)


# --- who supplies what ---------------------------------------------------------------------------


def table(lines: Iterable[str]) -> dict[str, list[str]]:
    """The cells of each row of the dry run's table, by column."""
    return {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}


def test_a_dry_run_says_who_supplies_each_column(
    settings: Settings, tmp_path: Path, write: Callable[[str], str]
) -> None:
    data = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{k}+1=", "answer": str(k + 1), "level": k / 10} for k in range(8)]
    data.write_text("\n".join(map(json.dumps, rows)))
    text = TWO_TURNS.replace(
        "A1 = ", "given level[p]\nstate base[p] = 0 next mean[i] first\nA1 = level - base + "
    )
    options = {"task.name": str(data), "rewards": {"turns": 0.5, "exact": 2.0}}
    rows_of_table = table(dry_run(settings(write(text), **options)))
    function = "the reward function `turns`"
    expected = {
        "base": "prompt the objective's own state",
        "first": f"response {function}",
        "level": f"prompt the data of `{data}`",
        "log_mu": "token the sampler",
        "log_pi": "token the trainer, from the policy, with gradient",
        "loss_mask": f"token {function}: 0 drops a token from the loss",
        "turn": f"token {function}",
    }
    assert rows_of_table | {name: x.split() for name, x in expected.items()} == rows_of_table


# --- what is refused -----------------------------------------------------------------------------

BAD = """
def named(*, completion_ids, **_):
    rows = [[0.0] * len(y) for y in completion_ids]
    return {"reward": [0.0] * len(completion_ids), "progres": rows}
def flat(*, completion_ids, **_):
    return {"reward": [0.0] * len(completion_ids), "progress": [0.0] * len(completion_ids)}
def beyond(*, completion_ids, **_):
    rows = [[0.0] * (len(y) - 1) + [1.5] for y in completion_ids]
    return {"reward": [0.0] * len(completion_ids), "progress": rows}
def halves(*, completion_ids, **_):
    rows = [[0.0] * len(y) for y in completion_ids]
    mask = [[1.0] * (len(y) - 1) + [0.5] for y in completion_ids]
    return {"reward": [0.0] * len(completion_ids), "progress": rows, "loss_mask": mask}
def nothing(*, completion_ids, **_):
    rows = [[0.0] * len(y) for y in completion_ids]
    return {"reward": [0.0] * len(completion_ids), "progress": rows, "loss_mask": rows}
def whole(*, completion_ids, **_):
    rows = [[0.0] * len(y) for y in completion_ids]
    ones = [1.0] * len(completion_ids)
    return {"reward": ones, "progress": rows, "loss_mask": ones}
def lost(*, completion_ids, **_):
    rows = [[0.0] * len(y) + [0.25, 0.0] for y in completion_ids]
    rows = [row[-len(y):] for row, y in zip(rows, completion_ids)]
    mask = [[float(x == 0) for x in row] for row in rows]
    return {"reward": [0.0] * len(completion_ids), "progress": rows, "loss_mask": mask}
"""


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "named",
            ConfigError,
            r"reads the column `progress`, a number per token, which no reward function returns; "
            r"did you mean `progres`\?",
        ),
        ("flat", RewardError, r"`progress` with a number per response: process reads one per tok"),
        (
            "beyond",
            RewardError,
            r"column `progress`: is 1.5 for token \d+ of response 0, outside of its domain "
            r"\[0, 1\] in process \(prompt '\d\+\d=', completion '.*'\)",
        ),
        ("halves", RewardError, r"column `loss_mask`: is 0.5 for token \d+ of response 0: it is 1"),
        ("nothing", RewardError, r"column `loss_mask`: leaves no token of response 0 to learn fr"),
        ("whole", RewardError, r"`loss_mask` with a number per response: the trainer reads one p"),
        (
            "lost",
            RewardError,
            r"column `progress`: rewards token \d+ of response \d+ with 0.25, but `loss_mask` rem",
        ),
    ],
)
def test_wrong_columns_are_refused(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[str], str],
    name: str,
    error: type[Exception],
    message: str,
) -> None:
    (tmp_path / "bad_columns.py").write_text(BAD)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=message):
        run(write(PROCESS), **{"warm_start.steps": 0}, rewards={f"bad_columns:{name}": 1.0})


def test_rollouts_that_branch_are_refused(run: Run, write: Callable[[str], str]) -> None:
    text = "given node[p,i,t] before t\nsample from mu: group 2, branch node\n"
    goal = "maximize mean[p,i] sum[t] (reward * log(pi))\n"
    with pytest.raises(ConfigError, match="branch by `node`, and the samplers here draw each"):
        run(write(f"objective x\n{text}{goal}"))


def test_the_data_has_no_columns_of_tokens(
    run: Run, tmp_path: Path, write: Callable[[str], str]
) -> None:
    data = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{k}+1=", "answer": str(k + 1), "progress": [0.5]} for k in range(8)]
    data.write_text("\n".join(map(json.dumps, rows)))
    options = {"task.name": str(data), "warm_start.steps": 0, "rewards": {"exact": 1.0}}
    with pytest.raises(ConfigError, match="the column of the task cannot supply it: the tokens"):
        run(write(PROCESS), **options)


def test_an_objective_may_have_the_mask_as_data(
    run: Run, numbers: Numbers, write: Callable[[str], str]
) -> None:
    """A column that the file declares is the file's: nothing is masked."""
    file = write(
        "objective weighted\ngiven loss_mask[p,i,t] in {0, 1}\n"
        "report live = mean[p,i,t] loss_mask\n"
        "maximize mean[p,i] sum[t] (pi / mu * loss_mask * reward)\n"
    )
    result = run(file, **TURNS)
    live = compare(
        result.folder, numbers, "live",
        lambda groups: fmean(x for group in groups for row in group for x in row["loss_mask"]),
    )  # fmt: skip
    assert all(0 < x < 1 for x in live)
