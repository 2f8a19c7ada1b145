"""Reward functions: what they are given, return and fail with."""

from __future__ import annotations

import math
import os
import random
import re
import signal
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from objdsl.runtime.data.judged import Judged
from objdsl.runtime.data.math_answers import equivalent
from objdsl.runtime.data.rewards import RewardError, Rewards, check_name
from objdsl.runtime.settings.config import ConfigError


def judged(completions: list[str], **columns: list[Any]) -> Judged:
    count = len(completions)
    tokens = [list(range(len(text) + 1)) for text in completions]
    places = [f"data.jsonl:{k + 1}" for k in range(count)]
    return Judged([""] * count, completions, [False] * count, columns, tokens, places)


def score(rewards: Rewards, completions: list[str], **columns: list[Any]) -> Any:
    with closing(rewards):
        return rewards(judged(completions, **columns))


def test_named_rewards() -> None:
    assert score(Rewards({"exact": 1}), ["46", " 46\n", "64"], answer=["46"] * 3).reward == [
        1,
        1,
        0,
    ]
    completions = ["so 1,234.50", "#### 42", "no number", "41 or 42"]
    right = ["the answer is 1234.5", 42, "3", "#### 42"]
    assert score(Rewards({"last_number": 2}), completions, answer=right).reward == [2, 2, 0, 2]


def test_import_path_and_extra_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def short(*, completions, truncated, **_):\n"
        "    sizes = [len(c) for c in completions]\n"
        "    return {'reward': [-n for n in sizes], 'characters': sizes}\n"
        "def nan(*, completions, **_):\n"
        "    return [float('nan')] * len(completions)\n"
        "def few(**_):\n"
        "    return [1.0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    both = Rewards({"exact": 10, "my_rewards:short": 0.5})
    scores = score(both, ["46", "4"], answer=["46", "46"])
    assert scores.reward == [9, -0.5]
    assert scores.columns == {
        "reward_exact": [1, 0],
        "reward_short": [-2, -1],
        "characters": [2, 1],
    }
    with pytest.raises(ValueError, match="`my_rewards:nan` is nan for response 0"):
        score(Rewards({"my_rewards:nan": 1}), ["46"])
    with pytest.raises(ValueError, match="has 1 values for 2 responses"):
        score(Rewards({"my_rewards:few": 1}), ["46", "4"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exct", "did you mean `exact`"),
        ("nowhere.at_all:f", "cannot be imported"),
        ("math:nothing", "cannot be imported"),
        ("math:pi", "not a function"),
    ],
)
def test_unknown_rewards(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rewards({name: 1.0})


USERS = """
def prompts_only(prompts):
    return [0.0] * len(prompts)
def solved(completions, solution, **_):
    return [0.0] * len(completions)
def offline(**_):
    raise RuntimeError("the judge is offline")
def none(completions, **_):
    return [None, 1.0]
def nothing(**_): ...
def words(**_):
    return ["good", "bad"]
async def later(solution, **_): ...
def own(completions, truncated, **_):
    return [float(c == "46" and not t) for c, t in zip(completions, truncated)]
"""


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_rewards.py").write_text(USERS)
    (tmp_path / "broken_rewards.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_rewards", raising=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("offline", r"failed: RuntimeError: the judge is offline \(.*users_rewards.py:7\)"),
        ("none", "is None for response 0: a finite number is needed"),
        ("nothing", "returned None: a list with a number per response is needed"),
        ("words", "is 'good' for response 0"),
    ],
)
def test_errors_of_reward_functions(users: None, name: str, message: str) -> None:
    rewards = Rewards({f"users_rewards:{name}": 1})
    rewards.check(["answer"])
    with pytest.raises(RewardError, match=f"`users_rewards:{name}` {message}"):
        score(rewards, ["46", "4"])


def test_a_reward_function_that_cannot_be_called(users: None) -> None:
    with pytest.raises(ConfigError, match=r"unexpected keyword argument .* takes those that it"):
        Rewards({"users_rewards:prompts_only": 1}).check(["answer"])
    with pytest.raises(
        ConfigError, match=r"missing a required .*'solution'; it is given `prompts`"
    ):
        Rewards({"users_rewards:solved": 1}).check(["answer"])
    Rewards({"users_rewards:solved": 1}).check(["solution"])
    with pytest.raises(ConfigError, match=r"`users_rewards:later` .*'solution'"):
        Rewards({"users_rewards:later": 1}).check(["answer"])
    with pytest.raises(ConfigError, match=r"ZeroDivisionError: .*broken_rewards.py:1"):
        Rewards({"broken_rewards:any": 1})


def test_the_run_overrides_columns_of_the_task(users: None) -> None:
    rewards = Rewards({"users_rewards:own": 1})
    rewards.check(["answer", "completions", "truncated"])
    columns = {"completions": ["", ""], "truncated": [True, True]}
    given = replace(judged(["46", "4"]), columns=columns)
    with closing(rewards):
        assert rewards(given).reward == [1, 0]


# --- side effects and failures of functions ------------------------------------------------------


def test_a_function_cannot_affect_the_run() -> None:
    before = (os.getcwd(), dict(os.environ), sys.stdout, signal.getsignal(signal.SIGTERM))
    random.seed(3)
    state = random.getstate()
    rewards = Rewards({"helpers.reward_functions:restless": 1})
    with closing(rewards):
        assert rewards(judged(["2", "3"])).reward == [1, 0]
        assert rewards(judged(["3", "2"])).reward == [0, 1]
    assert (os.getcwd(), dict(os.environ), sys.stdout, signal.getsignal(signal.SIGTERM)) == before
    assert random.getstate() == state
    assert "helpers.reward_functions" not in sys.modules


def test_random_numbers_depend_on_the_seed_of_the_call_alone() -> None:
    rewards = Rewards({"helpers.reward_functions:drawn": 1})
    with closing(rewards):
        first, second, again = (rewards(judged(["", ""]), seed).reward for seed in (1, 2, 1))
    assert first == again != second


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("leaves", r"failed: SystemExit: 3 \(.*reward_functions.py:\d+\) \(on responses to data"),
        ("dies", r"ended its process \(exit status 3\) \(on responses to data.jsonl:1, data"),
        ("crashes", r"ended its process \(SIGSEGV\)"),
        ("huge", "is an integer of 401 digits for response 0: a finite number is needed"),
        ("picky", r"failed: ZeroDivisionError: .*\) \(data.jsonl:2, completion 'b'\)"),
        ("too_few", r"column `place`: has 1 numbers for response 0, which has 2 tokens"),
    ],
)
def test_a_function_that_ends_its_process_is_named(name: str, message: str) -> None:
    rewards = Rewards({f"helpers.reward_functions:{name}": 1})
    with pytest.raises(
        RewardError, match=f"^reward function `helpers.reward_functions:{name}` {message}"
    ):
        score(rewards, ["a", "b", "c"], answer=["8", "7", "9"])


def test_a_function_that_hangs_is_killed() -> None:
    rewards = Rewards({"helpers.reward_functions:hangs": 1}, deadline=60)
    rewards.process.deadline = 0.2
    with pytest.raises(RewardError, match=r"hangs` took more than 0\.2 s .*on responses to data"):
        score(rewards, ["a"])
    assert rewards.process.child is None


def test_columns_of_tokens() -> None:
    scores = score(Rewards({"helpers.reward_functions:by_token": 1}), ["ab", "c"])
    assert scores.reward == [1, 0]
    assert scores.columns == {"place": [[0, 1, 2], [0, 1]]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[0.5] * 2", r"column `x`: has 2 numbers for response 1, which has 3 tokens, EOS"),
        ("2.0", r"column `x`: has one number for response 1, which has 3 tokens, EOS"),
        (
            "[0.5, float('nan'), 1.0]",
            r"column `x`: is nan for token 1 of response 1: a finite number is needed",
        ),
        ("[0.5, None, 1.0]", r"column `x`: is None for token 1 of response 1"),
    ],
)
def test_a_wrong_column_of_tokens_is_located(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, message: str
) -> None:
    (tmp_path / "by_token.py").write_text(
        f"def judge(**_):\n    return {{'reward': [0.0, 1.0], 'x': [[0.0], {row}]}}\n"
        "def nested(**_):\n    return [[0.0], [1.0, 0.0, 0.0]]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "by_token", raising=False)
    where = r".* \(data.jsonl:2, completion 'ab'\)"
    with pytest.raises(RewardError, match=f"`by_token:judge` {message}{where}"):
        score(Rewards({"by_token:judge": 1}), ["", "ab"])
    with pytest.raises(RewardError, match=r"`by_token:nested` .*`given progress\[p,i,t\] as rew"):
        score(Rewards({"by_token:nested": 1}), ["", "ab"])


def test_columns_of_several_functions_do_not_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}_rewards.py").write_text(
            f"def judge(**_):\n    return {{'reward': [1.0], '{name}': [2.0]}}\n"
            "def same(**_):\n    return {'reward': [1.0], 'x': [2.0]}\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    both = score(Rewards({"first_rewards:judge": 1, "second_rewards:judge": 2}), ["a"])
    assert both.reward == [3]
    assert both.columns == {
        "first": [2], "reward_first_rewards:judge": [1],
        "second": [2], "reward_second_rewards:judge": [1],
    }  # fmt: skip
    with pytest.raises(RewardError, match="returned the column `x`, as `first_rewards:same` did"):
        score(Rewards({"first_rewards:same": 1, "second_rewards:same": 1}), ["a"])


def test_long_numbers_are_compared_exactly() -> None:
    long = "9" * 5000
    rewards = score(
        Rewards({"last_number": 1}), [long, long, "0.10"], answer=[long, "8" + long, 0.1]
    )
    assert rewards.reward == [1, 0, 1]


def test_functions_of_a_notebook_run_in_a_child_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes cannot import them, so they run in a fork of this one."""
    notebook = ModuleType("notebook_of_tests")
    notebook.__spec__ = None
    monkeypatch.setitem(sys.modules, "notebook_of_tests", notebook)
    exec(
        "import os\ncalls = 0\n"
        "def judge(*, completions, **_):\n"
        "    global calls\n    calls += 1\n    os.chdir('/')\n"
        "    return [float(calls)] * len(completions)\n"
        "def dies(**_):\n    os._exit(4)\n",
        vars(notebook),
    )
    here = os.getcwd()
    rewards = Rewards({"notebook_of_tests:judge": 1})
    with closing(rewards):
        assert [rewards(judged(["a"])).reward for _ in range(2)] == [[1], [2]]
        child = rewards.process.child
        assert child is not None
        assert child.pid != os.getpid()
    assert (os.getcwd(), vars(notebook)["calls"]) == (here, 0)
    with pytest.raises(RewardError, match=r"ended its process \(exit status 4\)"):
        score(Rewards({"notebook_of_tests:dies": 1}), ["a"])


def test_the_process_ignores_the_signals_of_a_scheduler() -> None:
    rewards = Rewards({"helpers.reward_functions:even": 1})
    with closing(rewards):
        rewards.check(["answer"])
        child = rewards.process.child
        assert child is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(child.pid, number)
        assert rewards(judged(["2"])).reward == [1]


# --- failures that cost their prompts ------------------------------------------------------------

FUSSY = "helpers.reward_functions:fussy"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("5", r"is nan for response 0: a finite number is needed \(data.jsonl:2, completion 'bb'"),
        ("6", r"failed: ValueError: no six \(.*\) \(data.jsonl:2, completion 'bb'"),
        ("7", r"ended its process \(exit status 3\) \(on responses to data.jsonl:2\)"),
        ("8", r"took more than 2 s .*, and was ended \(on responses to data.jsonl:2\)"),
    ],
)
def test_a_failure_costs_its_prompt(answer: str, why: str) -> None:
    rewards = Rewards({FUSSY: 2, "exact": 1}, deadline=2 if answer == "8" else 60, failures=0.4)
    given = judged(["a", "bb", "1", "dddd"], answer=["1", answer, "1", "4"])
    with closing(rewards):
        scores = rewards(given)
    assert scores.failures.keys() == {1}
    assert re.match(f"^reward function `{FUSSY}` {why}", scores.failures[1])
    assert math.isnan(scores.reward[1])
    kept = scores[[0, 2, 3]]
    assert kept.reward == [2, 3, 8]
    assert kept.columns == {"reward_fussy": [1, 1, 4], "reward_exact": [0, 1, 0]}


def test_too_many_failures_end_the_run() -> None:
    given = judged(["a", "b", "c", "d"], answer=["1", "5", "6", "4"])
    for share, message in (
        (0.0, "a finite number is needed"),
        (0.4, r"responses to 2 of 4 prompts have no reward, and reward_failures is 0.4$"),
    ):
        rewards = Rewards({FUSSY: 1}, failures=share)
        with closing(rewards), pytest.raises(RewardError, match=message):
            rewards(given)
    rewards = Rewards({FUSSY: 1}, failures=1.0)
    with closing(rewards), pytest.raises(RewardError, match=r"to 2 of 2 prompts have no reward"):
        rewards(given[[1, 2]])


def test_async_functions_run_side_by_side() -> None:
    """Six calls wait for each other: of two functions for each of three prompts."""
    names = [f"helpers.reward_functions:{name}" for name in ("meets", "meets_too")]
    rewards = Rewards(dict.fromkeys(names, 1.0), deadline=20)
    given = judged(["a", "bb", "ccc", "d"], answer=["1", "1", "2", "3"])
    given = replace(given, places=["data.jsonl:1", *given.places[:3]])
    with closing(rewards):
        rewards.check(["answer"])
        scores = rewards(given)
        assert scores.reward == [2, 4, 6, 2]
        assert scores.columns["responses"] == [2, 2, 1, 1]
        assert scores.columns["reward_meets"] == [1, 2, 3, 1]
        with pytest.raises(
            RewardError, match=r"meets` failed: ValueError: no six \(.*data.jsonl:2"
        ):
            rewards(judged(["a", "b"], answer=["1", "6"]))


def test_an_async_call_that_hangs_costs_its_prompt() -> None:
    name = "helpers.reward_functions:meets"
    rewards = Rewards({name: 1.0}, deadline=3, failures=0.5)
    with closing(rewards):
        texts, answers = [*"abcdefgh"], [*"12345908"]
        scores = rewards(judged(texts, answer=answers))
    assert scores.failures.keys() == {7}
    assert re.match(f"^reward function `{name}` took more than 3 s .*jsonl:8", scores.failures[7])
    assert scores.reward[:7] == [1] * 7


# --- mathematical answers ------------------------------------------------------------------------


def test_math_verify_is_asked_for_equivalence(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("math_verify")
    exec(
        "from fractions import Fraction\n"
        "def parse(text):\n"
        "    text = text.rpartition('is ')[2]\n"
        "    return [Fraction(text.strip('$'))] if '/' in text or text[:1] == '$' else []\n"
        "def verify(gold, target):\n"
        "    return gold == target\n",
        vars(library),
    )
    monkeypatch.setitem(sys.modules, "math_verify", library)
    check_name("math_verify")
    answers = ["1/2", 3, "1/3"]
    completions = ["it is 2/4", "it is $3$", "it is 2/3"]
    assert equivalent(completions=completions, answer=answers) == [1, 1, 0]


def test_math_verify_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(
        ConfigError, match=r"`math_verify` needs .* pip installs as `objdsl\[math\]`"
    ):
        Rewards({"math_verify": 1})
