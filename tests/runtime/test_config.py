"""The settings of a run: reading, checking and writing them."""

from __future__ import annotations

from pathlib import Path

import pytest

from objdsl.runtime.settings.config import Config, ConfigError
from objdsl.runtime.settings.config_io import commented_yaml, config_yaml, documented, read_config
from objdsl.runtime.settings.foreign import PARAMETERS, SETTINGS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def test_flags_over_given_over_file_over_defaults(file: Path) -> None:
    file.write_text("steps: 5\nseed: 5\nlearner:\n  lr: 1e-5\n  clip: null\n")
    config = read_config(file, ["--steps", "7", "--learner.schedule=cosine"], {"seed": 6})
    assert (config.steps, config.seed) == (7, 6)
    assert config.learner.lr == 1e-5  # a text for YAML 1.1, which wants 1.0e-5
    assert config.learner.clip is None
    assert config.learner.schedule == "cosine"
    assert config.sampler == Config().sampler


def test_every_problem_has_a_place(file: Path) -> None:
    file.write_text("learner:\n  lrr: 1e-6\n  lr: -1\nsamplr:\n  group: 8\ngroup: 4\n")
    with pytest.raises(ConfigError) as caught:
        read_config(file, ["--model.nme=gpt2", "--lr=1"])
    assert sorted(caught.value.problems) == [
        "--lr: unknown setting `lr`; did you mean `learner.lr`?",
        "--model.nme: unknown setting `model.nme`; did you mean `model.name`?",
        f"{file}:2: unknown setting `learner.lrr`; did you mean `learner.lr`?",
        f"{file}:3: `learner.lr` is -1: input should be greater than 0",
        f"{file}:4: unknown setting `samplr`; did you mean `sampler`?",
        f"{file}:6: unknown setting `group`; did you mean `sampler.group`?",
    ]


def test_settings_of_other_frameworks_have_a_pointer(file: Path) -> None:
    file.write_text("algorithm:\n  adv_estimator: grpo\n  gamma: 1\nnum_generations: 8\n")
    flags = [
        "--learning_rate=1e-6", "--max-completion-length=512", "--beta=0.0", "--epsilon=0.2",
        "--actor_rollout_ref.rollout.n=8", "--actor_rollout_ref.actor.clip_ratio_low=0.2",
        "--temperature=0.7", "--trainer.nnodes=2", "--warmup_ratio=0.1",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        read_config(file, flags)
    hints = {
        problem.partition("; ")[0]: problem.partition("; ")[2] for problem in caught.value.problems
    }
    unknown = "unknown setting"
    assert hints[f"{file}:2: {unknown} `algorithm.adv_estimator`"].startswith(
        "the objective sets it"
    )
    assert "grpo" not in hints[f"{file}:3: {unknown} `algorithm.gamma`"]
    assert hints[f"{file}:4: {unknown} `num_generations`"] == "it is called `sampler.group` here"
    assert hints[f"--learning_rate: {unknown} `learning_rate`"] == "it is called `learner.lr` here"
    long = f"--max-completion-length: {unknown} `max_completion_length`"
    assert hints[long] == "it is called `sampler.max_tokens` here"
    parameter = "it is a parameter of the objective: `--set"
    assert hints[f"--beta: {unknown} `beta`"] == f"{parameter} beta=0.0`"
    assert hints[f"--epsilon: {unknown} `epsilon`"] == f"{parameter} eps=0.2`"
    n = "actor_rollout_ref.rollout.n"
    assert hints[f"--{n}: {unknown} `{n}`"] == "it is called `sampler.group` here"
    low = "actor_rollout_ref.actor.clip_ratio_low"
    assert hints[f"--{low}: {unknown} `{low}`"] == f"{parameter} eps=0.2`"
    assert "sample from mu: temperature 1" in hints[f"--temperature: {unknown} `temperature`"]
    assert "torchrun" in hints[f"--trainer.nnodes: {unknown} `trainer.nnodes`"]


def test_pointers_name_existing_settings() -> None:
    known = {name for name, _, _ in documented()}
    assert set(SETTINGS.values()) <= known
    ours = {name.rsplit(".", 1)[-1] for name in known} | known
    assert not ours & {*PARAMETERS} - {"epsilon"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [1\n", ":2: not YAML"),
        ("- 1\n", ":1: settings are `key: value` lines"),
        ("steps: 1\nseed: 2\nsteps: 3\n", ":3: `steps` is set twice, first at"),
        ("steps: !!python/object/apply:os.getcwd []\n", "not YAML"),
        ("model: {width: 100, heads: 3}\n", "not a multiple of"),
        ("learner: {minibatches: 17}\n", "groups are never split"),
        ("learner: 3\n", "`learner` is 3"),
        ("learner: {lr: .inf}\n", "`learner.lr` is inf: input should be a finite number"),
        ("rewards: {exact: .nan}\n", "`rewards.exact` is nan: input should be a finite number"),
        ("params: " + "[" * 1500 + "]" * 1500, "not YAML: it is nested too deeply"),
        ("params: &a {x: *a}\n", "not YAML: it expands to more than 10000 values"),
    ],
)
def test_bad_files(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=message.replace("[", "\\[")):
        read_config(file)


@pytest.mark.parametrize("flags", [["steps", "3"], ["--steps"], ["--steps", "--seed", "1"]])
def test_bad_flags(flags: list[str]) -> None:
    with pytest.raises(ConfigError):
        read_config(None, flags)


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")


def test_what_is_written_reads_back(file: Path) -> None:
    config = read_config(None, ["--params.eps=0.3", "--output", "runs/x", "--learner.clip=null"])
    for text in (config_yaml(config), commented_yaml(config)):
        file.write_text(text)
        assert read_config(file) == config


def test_rewards_by_name_list_or_table(file: Path) -> None:
    dotted = read_config(None, ["--rewards.my.module:judge_it", "2", "--rewards.exact", "1"])
    assert dotted.rewards == {"my.module:judge_it": 2, "exact": 1}
    assert read_config(None, ["--rewards", "last_number"]).rewards == {"last_number": 1}
    file.write_text("rewards: [exact, my.module:f]\n")
    assert read_config(file).rewards == {"exact": 1, "my.module:f": 1}
    assert read_config(None, ["--report.trackers", "wandb"]).report.trackers == ["wandb"]
    with pytest.raises(ConfigError, match="`rewards` is 3"):
        read_config(None, ["--rewards", "3"])


def test_every_setting_is_documented() -> None:
    assert [name for name, _, note in documented() if not note] == []


def test_aliases_of_aliases_are_refused_at_once(file: Path) -> None:
    lines = ["params:", "  a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"  a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 10)}]" for k in range(12)]
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="it expands to more than 10000 values"):
        read_config(file)
    file.write_text("params: {a: &rate 0.1, b: *rate}\n")
    assert read_config(file).params == {"a": 0.1, "b": 0.1}
