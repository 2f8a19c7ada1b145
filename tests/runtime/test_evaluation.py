"""Held-out evaluation: Pass@k and Maj@k against enumeration, and the sets of a run."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from objdsl.runtime.learning.evaluation import Evaluation, majority_at, normalised, pass_at
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config, ConfigError
from objdsl.runtime.settings.config_io import read_config
from objdsl.runtime.storage.checkpoint import all_of

Run = Callable[..., Result]
Numbers = Callable[[Path], list[dict[str, float]]]


def vote(answers: Sequence[str], right: set[str]) -> float:
    """The share of right ones among the most frequent answers."""
    counts = Counter(answers)
    winners = [answer for answer in counts if counts[answer] == max(counts.values())]
    return sum(answer in right for answer in winners) / len(winners)


@pytest.mark.parametrize("case", range(30))
def test_pass_and_majority_are_means_over_all_choices(case: int) -> None:
    rng = random.Random(case)
    samples = rng.randint(1, 8)
    answers = [rng.choice("abcd"[: rng.randint(1, 4)]) for _ in range(samples)]
    right = {answer for answer in "abcd" if rng.random() < 0.4}
    is_right = [answer in right for answer in answers]
    for k in range(1, samples + 1):
        choices = [*combinations(range(samples), k)]
        passed = sum(any(is_right[j] for j in choice) for choice in choices) / len(choices)
        voted = sum(vote([answers[j] for j in choice], right) for choice in choices) / len(choices)
        assert pass_at(k, samples, sum(is_right)) == pytest.approx(passed, abs=1e-12)
        assert majority_at(k, answers, is_right) == pytest.approx(voted, abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    assert pass_at(1, 4096, 1024) == 0.25
    assert pass_at(2048, 4096, 1) == 0.5


@pytest.mark.parametrize(
    ("text", "by_text", "by_number"),
    [
        (" The  sum is 1,250.0\n", "the sum is 1,250.0", "1250"),
        ("x = 12 or 0.50", "x = 12 or 0.50", "0.5"),
        ("No idea", "no idea", "no idea"),
    ],
)
def test_equal_answers(text: str, by_text: str, by_number: str) -> None:
    assert normalised(text, is_number=False) == by_text
    assert normalised(text, is_number=True) == by_number


def test_several_sets_are_measured_by_sampling(
    run: Run, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "other.jsonl"
    data.write_text("".join(f'{{"q": "{k}+{k}=", "prompt": "", "a": {2 * k}}}\n' for k in range(9)))
    options = {
        "evaluation.samples": 3,
        "evaluation.k": [1, 2, 3],
        "evaluation.sets": {"doubles": {"name": str(data), "prompt": "q", "answer": "a"}},
    }
    drawn: list[list[tuple[Sequence[str], list[float]]]] = []
    measured = Evaluation.__call__

    def recorded(self: Evaluation) -> dict[str, float]:
        """The evaluation, and from the same draws by hand what it should find."""
        attempt, calls = type(self.source).attempt, []

        def attempted(*arguments: Any) -> Any:
            calls.append(attempt(*arguments))
            return calls[-1]

        with monkeypatch.context() as patch:
            patch.setattr(type(self.source), "attempt", attempted)
            scores = measured(self)
        drawn.append(calls)
        return scores

    monkeypatch.setattr(Evaluation, "__call__", recorded)
    out = StringIO()
    result = run(_console=Console(file=out, width=500), **options)
    steps = numbers(result.folder)
    evaluated = [step for step in steps if "held_out" in step]
    assert [step["step"] for step in evaluated] == [0, 2, 4]
    for step, calls in zip(evaluated, drawn, strict=True):
        for prefix, (greedy, *samples) in (("", calls[:4]), ("doubles/", calls[4:])):
            count = len(greedy[1])
            assert step[f"{prefix}held_out"] == pytest.approx(sum(greedy[1]) / count)
            assert count == 8
            for k in (1, 2, 3):
                choices = [
                    (texts, rewards)
                    for j in range(count)
                    for chosen in combinations(samples, k)
                    for texts, rewards in [zip(*((s[0][j], s[1][j]) for s in chosen), strict=True)]
                ]
                passed = sum(1.0 in rewards for _, rewards in choices) / len(choices)
                assert step[f"{prefix}pass_at_{k}"] == pytest.approx(passed)
                if k > 1:
                    voted = [
                        vote(texts, {t for t, r in zip(texts, rewards, strict=True) if r == 1.0})
                        for texts, rewards in choices
                    ]
                    maj = step[f"{prefix}maj_at_{k}"]
                    assert maj == pytest.approx(sum(voted) / len(voted))
    assert "doubles: held-out reward (greedy) before:" in out.getvalue()
    assert "evaluation.sets.doubles: 8 of 8 prompts are trained on, too" not in out.getvalue()
    assert "of 8 prompts are trained on, too" in out.getvalue()

    # A resumed run measures the same, and evaluating changes nothing else.
    all_of(result.folder / "checkpoints")[-1].rename(tmp_path / "last")
    run(_resume="auto", **options)
    assert numbers(result.folder) == steps
    plain = numbers(run(output=tmp_path / "plain").folder)
    for step, alone in zip(steps, plain, strict=True):
        assert alone == {name: step[name] for name in alone}


def test_settings_of_evaluation() -> None:
    with pytest.raises(ConfigError, match=r"`report\.evaluate` is called `evaluation\.every` now"):
        read_config(None, ["--report.evaluate", "3"])
    with pytest.raises(ConfigError, match=r"k is 8, and evaluation\.samples 4"):
        read_config(None, ["--evaluation.samples", "4", "--evaluation.k", "[1, 8]"])
    with pytest.raises(ConfigError, match=r"did you mean `evaluation\.sets\.math\.split`\?"):
        read_config(None, [], {"evaluation.sets": {"math": {"name": "x", "splt": "a"}}})
    short = read_config(None, ["--evaluation.sets.math", "math.jsonl"])
    assert short.evaluation.sets["math"].name == "math.jsonl"
    assert read_config(None, [], json.loads(short.model_dump_json())) == short
    assert isinstance(short, Config)
