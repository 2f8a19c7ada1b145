"""Complete runs: what they learn and write, and resuming them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from objdsl.runtime.data.prompts import character_tokenizer
from objdsl.runtime.data.reward_process import RewardProcess
from objdsl.runtime.data.rewards import RewardError
from objdsl.runtime.learning.learner import Learner
from objdsl.runtime.learning.optimizer import TrainingError
from objdsl.runtime.report.metrics import DOCUMENTED, is_metric
from objdsl.runtime.run import launch
from objdsl.runtime.run.dry_run import dry_run
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config, ConfigError
from objdsl.runtime.settings.config_io import read_config
from objdsl.runtime.storage.checkpoint import all_of
from objdsl.runtime.storage.sealed_folder import CheckpointError, SaveError

Run = Callable[..., Result]
Numbers = Callable[[Path], list[dict[str, float]]]
Settings = Callable[..., Config]


def test_equal_settings_give_equal_numbers(run: Run, numbers: Numbers, tmp_path: Path) -> None:
    first = run("grpo", output=tmp_path / "a")
    second = run("grpo", output=tmp_path / "b")
    assert numbers(first.folder) == numbers(second.folder)
    other = run("grpo", output=tmp_path / "c", seed=1)
    assert numbers(first.folder) != numbers(other.folder)


def test_what_a_run_writes(run: Run, numbers: Numbers) -> None:
    out = StringIO()
    result = run("dapo", _console=Console(file=out, soft_wrap=True), report__curves=True)
    start, *steps = numbers(result.folder)
    assert start == {"step": 0, "held_out": result.before}
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    measured = {name for name in DOCUMENTED if "second" not in name and "<" not in name}
    measured -= {"held_out", "critic_grad_norm", "unscored"}  # where there is such a thing
    for step in steps:
        assert measured | {"clip_fraction", "overlong"} <= step.keys()
        assert {name for name in step if not is_metric(name)} == {"clip_fraction", "overlong"}
        assert 0 <= step["reward"] <= 1
        assert step["mismatch"] < 1e-5  # one engine and the other are the same
        assert step["kl_mu_old_k3"] == pytest.approx(0, abs=1e-6)
    assert ["held_out" in step for step in steps] == [False, True, False, True]
    assert steps[-1]["held_out"] == result.after
    samples = [
        json.loads(line) for line in (result.folder / "samples.jsonl").read_text().splitlines()
    ]
    assert len(samples) == 2 * 16  # all responses of the steps that are shown
    assert samples[0].keys() == {"step", "prompt", "response", "reward"}
    assert read_config(result.folder / "config.yaml").sampler.group == 4
    assert (result.folder / "objective.obj").read_text().startswith("# DAPO")
    assert (result.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    output = out.getvalue()
    assert "sampled by transformers.generate" in output
    assert "group 4, where dapo declares 16" in output
    assert f"held-out reward (greedy): {result.before:.3f} -> {result.after:.3f}" in output
    assert "step 4/4  held_out" in output


@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ("grpo", {}),
        ("ppo", {"learner.minibatches": 2, "learner.epochs": 2}),
        ("clip_cov", {"learner.micro_batch": 5, "sampler.resample": 1}),
    ],
)
def test_resumed_is_uninterrupted(
    run: Run, numbers: Numbers, tmp_path: Path, objective: str, more: dict[str, Any]
) -> None:
    straight = run(objective, output=tmp_path / "straight", **more)
    halves = tmp_path / "halves"
    run(objective, output=halves, **more)
    shutil.rmtree(halves / "checkpoints" / "step-000004")  # as if it had crashed after step 3
    (halves / "metrics.jsonl").open("a").write('{"step": 5, "rew')
    out = StringIO()
    console = Console(file=out, soft_wrap=True)
    run(objective, output=halves, _resume="auto", _console=console, **more)
    assert f"resuming from {halves / 'checkpoints' / 'step-000002'}" in out.getvalue()
    assert numbers(halves) == numbers(straight.folder)
    last = "checkpoints/step-000004/model.safetensors"
    weights, others = load_file(straight.folder / last), load_file(halves / last)
    assert all(bool((weights[name] == others[name]).all()) for name in weights)


def test_resuming_a_different_run_is_an_error(run: Run, tmp_path: Path) -> None:
    run("grpo")
    folder = str(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"has done 4 of 4 steps: .* `--steps 8` would"):
        run("grpo", _resume=folder)
    with pytest.raises(CheckpointError, match=r"has done 4 steps, .* one of 3: .* `--steps 7`"):
        run("grpo", _resume=folder, steps=3)
    changes: list[tuple[str, dict[str, Any]]] = [
        ("objective", {"params.eps": 0.3}),
        ("task", {"task.digits": 2}),
        ("model", {"model.width": 32}),
    ]
    for what, change in changes:
        with pytest.raises(CheckpointError, match=f"different run[^$]*{what}: the checkpoint has"):
            run("grpo", _resume=folder, steps=6, **change)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        run("grpo", _resume=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="holds a run already"):
        run("grpo")
    out = StringIO()
    on = run(
        "grpo", steps=6, _resume=folder, _allow_changed=True, _console=Console(file=out, width=500),
        **{"params.eps": 0.3},
    )  # fmt: skip
    assert on.steps == 6
    assert "changed since then: params.eps: None -> 0.3" in out.getvalue()
    assert "changed since then: steps: 4 -> 6" in out.getvalue()


def test_a_checkpoint_is_complete_or_absent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(steps=6, checkpoint__keep=2)
    checkpoints = result.folder / "checkpoints"
    assert [path.name for path in all_of(checkpoints)] == ["step-000004", "step-000006"]

    def crash(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("objdsl.runtime.storage.checkpoint.torch.save", crash)
    with pytest.raises(SaveError, match="step-000008 cannot be written: no space"):
        run(steps=8, _resume=str(result.folder))
    monkeypatch.undo()
    names = sorted(path.name for path in checkpoints.iterdir())
    assert names == ["step-000004", "step-000006"]  # nothing half written holds space
    assert run(steps=8, _resume=str(result.folder)).steps == 8


def test_a_false_start_leaves_nothing(run: Run, tmp_path: Path) -> None:
    for what in ({"model.name": str(tmp_path / "none")}, {"sampler.max_tokens": 5000}):
        with pytest.raises(ConfigError, match=r"cannot be loaded|tiny reads 4096 tokens"):
            run("grpo", **what)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        run("grpo", **{"model.name": str(tmp_path / "none")})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    run("grpo", steps=1)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ConfigError, match="ended before its first checkpoint; begin it again with"):
        run("grpo", steps=1)
    assert run("grpo", steps=1, _resume="auto").steps == 1


def test_going_back_sets_later_steps_aside(run: Run, numbers: Numbers, tmp_path: Path) -> None:
    straight = run(steps=6, checkpoint__keep=3, output=tmp_path / "straight")
    back = run(steps=6, checkpoint__keep=3)
    first, *_ = all_of(back.folder / "checkpoints")
    run(steps=3, _resume=str(first), checkpoint__keep=2)
    names = [path.name for path in all_of(back.folder / "checkpoints")]
    assert names == ["step-000002", "step-000003"]
    assert (back.folder / "checkpoints" / "left-step-000006" / "model.safetensors").exists()
    dropped = (back.folder / "metrics.dropped.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in dropped] == [3, 4, 5, 6]
    run(steps=6, _resume="auto")
    # The learning rate of step 3 was that of a run of three steps.
    assert [step["step"] for step in numbers(back.folder)] == list(range(7))
    assert numbers(back.folder)[:3] == numbers(straight.folder)[:3]


def test_a_folder_of_a_different_architecture(run: Run, numbers: Numbers, tmp_path: Path) -> None:
    tokenizer = character_tokenizer("0123456789+=")
    tokenizer.pad_token = None
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, eos_token_id=[1, 5], max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    options = {"model.name": str(tmp_path / "llama"), "warm_start.steps": 0}
    straight = run("grpo", output=tmp_path / "straight", **options)
    halves = run("grpo", **options)
    shutil.rmtree(halves.folder / "checkpoints" / "step-000004")
    run("grpo", _resume="auto", **options)  # its `ref` comes from the folder of the run
    assert numbers(halves.folder) == numbers(straight.folder)
    rows = (halves.folder / "samples.jsonl").read_text().splitlines()
    assert not any("2" in json.loads(row)["response"][:-1] for row in rows)  # token 5 ends it
    last = halves.folder / "checkpoints" / "step-000004"
    assert type(AutoModelForCausalLM.from_pretrained(last)) is LlamaForCausalLM
    assert AutoTokenizer.from_pretrained(last).eos_token_id == 1
    with pytest.raises(ConfigError, match=r"policies\.teacher: its tokenizer differs"):
        teacher = {"policies.teacher": str(tmp_path / "llama")}
        run("on_policy_distillation", output=tmp_path / "student", **teacher)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step(
    run: Run, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    straight = run(output=tmp_path / "straight")
    learn = Learner.learn

    def interrupted(self: Any, batch: Any, step: int, rows: Any = None) -> Any:
        if step == 2:
            os.kill(os.getpid(), number)
        return learn(self, batch, step, rows)

    monkeypatch.setattr(Learner, "learn", interrupted)
    handler = signal.getsignal(number)
    out = StringIO()
    stopped = run(_console=Console(file=out, width=500))
    assert (stopped.steps, stopped.stopped) == (3, number)
    folder = stopped.folder
    command = f"objdsl train --config {folder / 'config.yaml'} --resume {folder}"
    assert f"stopped by {signal.Signals(number).name}; resume with: {command}" in out.getvalue()
    assert signal.getsignal(number) is handler
    monkeypatch.undo()
    run(_resume="auto")
    assert numbers(stopped.folder) == numbers(straight.folder)


@pytest.mark.parametrize(
    "objective",
    [
        *("reinforce", "rloo", "grpo", "dapo", "gspo", "cispo"),
        *("ppo", "remax", "kl_cov", "vespo", "differential_smoothing"),
    ],
)
def test_objectives_learn(run: Run, numbers: Numbers, objective: str) -> None:
    """From two responses in five that begin with an even digit to more than eight in ten."""
    settings = {"learner.lr": 3e-2, "sampler.prompts": 8, "evaluation.every": 0}
    if objective == "dapo":  # half of the responses are overlong; in the end, none is wrong
        settings |= {"params.L_max": 20480.0, "sampler.resample": 0}
    steps = numbers(run(objective, steps=25, checkpoint__every=0, **settings).folder)
    rewards = [step["reward"] for step in steps if "reward" in step]
    first, last = rewards[:5], rewards[-5:]
    assert sum(first) / len(first) < 0.5
    assert sum(last) / len(last) > 0.8


def test_other_policies(run: Run, numbers: Numbers, tmp_path: Path) -> None:
    teacher = run("rloo", output=tmp_path / "teacher").folder / "checkpoints" / "step-000004"
    result = run("on_policy_distillation", **{"policies.teacher": str(teacher)})
    assert all(step["grad_norm"] > 0 for step in numbers(result.folder)[1:])
    inner = run("bupo", output=tmp_path / "inner", steps=1, **{"model.layers": 7})
    assert numbers(inner.folder)[1]["grad_norm"] > 0
    with pytest.raises(ConfigError, match=r"set policies\.teacher"):
        run("on_policy_distillation", output=tmp_path / "alone")


def test_preferences(run: Run, numbers: Numbers, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"{k}?", "chosen": str(k), "rejected": str(k * 7 % 10)} for k in range(1, 10)
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    options = {"task.name": str(data), "warm_start.steps": 0, "learner.lr": 1e-2}
    result = run("dpo", steps=12, **options)
    steps = numbers(result.folder)
    assert steps[-1]["objective"] > steps[0]["objective"]
    cut = run("dpo", steps=12, output=tmp_path / "cut", **options, **{"learner.micro_batch": 3})
    for expected, actual in zip(steps, numbers(cut.folder), strict=True):
        assert actual["objective"] == pytest.approx(expected["objective"], rel=1e-3)
    with pytest.raises(ConfigError, match="the task needs the columns `chosen` and `rejected`"):
        run("dpo", output=tmp_path / "none")


def test_dropped_prompts_are_replaced_until_the_step_is_full(
    run: Run, numbers: Numbers, tmp_path: Path
) -> None:
    once = numbers(run("dapo", output=tmp_path / "once", **{"sampler.resample": 0}).folder)[1:]
    again = numbers(run("dapo").folder)[1:]
    assert any(step["zero_variance"] > 0 for step in once)
    assert not any("dropped" in step for step in once)
    assert all(step["zero_variance"] == 0 for step in again)
    assert all(1 <= step["rounds"] <= 11 for step in again)
    first = again[0]
    assert first["dropped"] == 4 * once[0]["zero_variance"] > 0 or first["rounds"] > 2
    assert first["tokens"] > once[0]["tokens"]
    # Everything that was sampled counts for the epoch, of 92 prompts, and for the reward.
    drawn = 4 * 92 * again[-1]["epoch"]
    assert sum(step["tokens"] / step["length"] for step in again) == pytest.approx(drawn)

    out = StringIO()
    with pytest.raises(
        TrainingError, match=r"4 rounds of sampling gave 0 of 4 prompts that `keep`"
    ):
        run(
            "dapo", output=tmp_path / "none", _console=Console(file=out, width=500),
            rewards={"helpers.reward_functions:keys": 1.0}, **{"sampler.resample": 3},
        )  # fmt: skip


def test_the_longest_response_is_where_overlong_ones_are_punished(
    run: Run, numbers: Numbers, tmp_path: Path
) -> None:
    out = StringIO()
    steps = numbers(run("dapo", steps=2, _console=Console(file=out, width=500)).folder)[1:]
    assert "L_max is 4, L_cache is 1: sampler.max_tokens is 4" in out.getvalue()
    assert "of the responses are truncated (sampler.max_tokens)" in out.getvalue()
    assert all(step["overlong"] > 0 for step in steps)
    chosen = {"params.L_max": 20480, "params.L_cache": 4096}
    kept = numbers(run("dapo", steps=1, output=tmp_path / "kept", **chosen).folder)[1]
    assert kept["overlong"] == 0


def test_columns_of_reward_functions(
    run: Run, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "room.py").write_text(
        "def judged(*, completions, answer, **_):\n"
        "    right = [float(c == a) for c, a in zip(completions, answer)]\n"
        "    return {'reward': right, 'margin': [2.0] * len(right)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = tmp_path / "margins.obj"
    text.write_text(
        "objective margins\n"
        "given margin[p,i]\n"
        "A = margin * reward - mean[i] reward\n"
        "report doubled = mean[p,i] margin\n"
        "maximize mean[p,i] sum[t] (A * log(pi))\n"
    )
    result = run(str(text), rewards={"room:judged": 1.0})
    assert numbers(result.folder)[1]["margin"] == 2
    assert numbers(result.folder)[1]["doubled"] == 2
    for rewards in ({"exact": 1.0}, {"helpers.reward_functions:even": 1.0}):
        with pytest.raises(ConfigError, match="reads the column `margin`, a number per response"):
            run(str(text), output=tmp_path / "without", rewards=rewards)
        assert not (tmp_path / "without").exists()


def test_a_folder_is_a_model_and_reports_have_their_names(
    run: Run, numbers: Numbers, tmp_path: Path
) -> None:
    text = tmp_path / "named.obj"
    text.write_text(
        "objective named\nreport entropy = mean[p,i,t] (2 * t / t)\n"
        "report step = mean[p,i] (2 * reward)\n"
        "maximize mean[p,i] sum[t] (reward * log(pi))\n"
    )
    first = run(str(text))
    assert numbers(first.folder)[1]["entropy"] == pytest.approx(2, abs=1e-6)
    assert all(x["report_step"] == 2 * x["reward"] for x in numbers(first.folder)[1:])
    assert [line["step"] for line in numbers(first.folder)] == [0, 1, 2, 3, 4]
    assert numbers(first.folder)[1]["run_entropy"] > 2.2  # almost uniform over 13 tokens
    weights = first.folder / "checkpoints" / "step-000004"
    second = run(str(text), output=tmp_path / "second", **{"model.name": str(weights)})
    assert second.before == first.after


def test_a_dry_run_of_chats(settings: Settings, tmp_path: Path) -> None:
    data = tmp_path / "chats.jsonl"
    rows = [{"prompt": f"{'long ' * 300}{k}?", "answer": str(k)} for k in range(10)]
    data.write_text("\n".join(map(json.dumps, rows)))
    task = {"task.name": str(data), "task.system": "be brief", "task.max_prompt_tokens": 1024}
    config = settings("grpo", **task, report__trackers=["wandb"], **{"model.name": "some/model"})
    assert "no errors" in list(dry_run(config))[-1]


def test_a_dry_run_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    lines = "\n".join(dry_run(settings("ppo", **{"learner.epochs": 2, "learner.micro_batch": 8})))
    assert "value_old        token        the trainer, from the policy before it learns" in lines
    assert "log_ref          token        the trainer, from the frozen policy `ref`" in lines
    assert "4 prompts x 4 responses = 16 responses" in lines
    assert "then 2 steps of AdamW on 16 responses each, in 2 forward passes of at most 8" in lines
    assert "no errors" in lines
    assert list(tmp_path.iterdir()) == []


# --- reward functions and columns ----------------------------------------------------------------


def test_a_reward_function_that_fails_ends_the_run_after_a_checkpoint(
    run: Run, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flaky.py").write_text(
        "import pathlib, time\n"
        "from helpers.reward_functions import even\n"
        "count = 0\n"
        "def judge(*, completions, **others):\n"
        "    global count\n"
        "    count += 1\n"
        "    how = pathlib.Path(__file__).with_name('how').read_text()\n"
        "    if count == 5 and how == 'fails':\n"
        "        raise RuntimeError('the judge is offline')\n"
        "    if count == 5 and how == 'hangs':\n"
        "        time.sleep(3600)\n"
        "    return even(completions=completions, **others)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = {"rewards": {"flaky:judge": 1.0}, "checkpoint.every": 0}
    (tmp_path / "how").write_text("works")
    straight = run(output=tmp_path / "straight", **options)
    call, scored = RewardProcess.call, 0

    def hurried(self: RewardProcess, kind: str, *arguments: Any) -> Any:
        """Shortens the deadline of the call that hangs."""
        nonlocal scored
        if kind == "score" and self.deadline == 299:
            scored += 1
            if scored == 5:
                self.deadline = 0.2
        return call(self, kind, *arguments)

    monkeypatch.setattr(RewardProcess, "call", hurried)
    for how, message in (
        ("fails", r"`flaky:judge` failed: RuntimeError: the judge is offline \(.*flaky.py:9\)"),
        ("hangs", r"`flaky:judge` took more than 0\.2 s \(reward_deadline\), and was ended"),
    ):
        (tmp_path / "how").write_text(how)
        out = StringIO()
        with pytest.raises(RewardError, match=message):
            run(
                output=tmp_path / how, _console=Console(file=out, width=500),
                reward_deadline=299 if how == "hangs" else 300, **options,
            )  # fmt: skip
        assert "ended after step 2, which is saved; resume with: objdsl train" in out.getvalue()
        (tmp_path / "how").write_text("works")
        run(output=tmp_path / how, _resume="auto", **options)
        assert numbers(tmp_path / how) == numbers(straight.folder)


def test_a_function_that_changes_the_folder_does_not_affect_the_run(
    run: Run, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(output=Path("moved"), rewards={"helpers.reward_functions:restless": 1.0})
    assert [path.name for path in all_of(tmp_path / "moved" / "checkpoints")] == [
        "step-000002", "step-000004",
    ]  # fmt: skip
    straight = run(output=tmp_path / "straight")
    assert numbers(result.folder) == numbers(straight.folder)


def test_columns_of_tokens_come_from_the_rewards(
    run: Run, settings: Settings, numbers: Numbers, tmp_path: Path
) -> None:
    text = tmp_path / "placed.obj"
    text.write_text(
        "objective placed\n"
        "given place[p,i,t]\n"
        "report last = mean[p,i] max[t] place\n"
        "maximize mean[p,i] sum[t] (place * reward * log(pi))\n"
    )
    options = {"rewards": {"helpers.reward_functions:by_token": 1.0}, "sampler.resample": 0}
    lines = "\n".join(dry_run(settings(str(text), **options)))
    function = "the reward function `helpers.reward_functions:by_token`"
    assert f"place            token        {function}" in lines
    assert f"reward           response     {function}" in lines
    steps = numbers(run(str(text), **options).folder)[1:]
    for step in steps:
        assert step["last"] == pytest.approx(step["length"] - 1)
        assert 0 < step["place"] < step["length"]
    wrong = {"rewards": {"helpers.reward_functions:too_few": 1.0}}
    with pytest.raises(RewardError, match=r"column `place`: has 1 numbers for response .* tokens"):
        run(str(text), output=tmp_path / "few", **wrong)
    with pytest.raises(ConfigError, match="`place`, a number per token, which no reward function"):
        run(str(text), output=tmp_path / "none")


def test_columns_with_the_names_of_metrics(run: Run, numbers: Numbers) -> None:
    result = run(rewards={"helpers.reward_functions:keys": 1.0}, steps=2)
    rows = [json.loads(line) for line in (result.folder / "samples.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {2}
    assert all(
        row["column_step"] == row["column_prompt"] == row["column_response"] == 7 for row in rows
    )
    assert all("=" in row["prompt"] for row in rows)
    start, *steps = numbers(result.folder)
    assert [step["step"] for step in (start, *steps)] == [0, 1, 2]
    for step in steps:
        assert step["column_length"] == step["column_step"] == step["column_tokens"] == 7
        assert step["length"] < 7


# --- what cannot run is refused before anything is computed --------------------------------------


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        ("bupo", {}, r"reads the policy `inner` off layer 6, and the model has 1"),
        ("grpo", {"sampler.group": 1}, r"one response only \(sampler.group is 1"),
        ("grpo", {"learner.autocast": True}, r"learner.autocast computes in bfloat16 on a GPU"),
        (
            "grpo",
            {"learner.precision": "bf16x2"},
            r"learner.precision is `bf16x2`, but the head is not fused",
        ),
        ("kto", {}, r"kto learns from preferences: the task needs the columns `chosen` and"),
        ("on_policy_distillation", {}, r"set policies\.teacher"),
        ("grpo", {"sampler.engine": "vllm"}, r"sampler.engine is vllm, but (neither|on a CPU it)"),
        ("grpo", {"policies.ref": "/nowhere"}, r"`/nowhere` cannot be loaded"),
    ],
)
def test_what_cannot_run_is_refused_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str,
    options: dict[str, Any], message: str,
) -> None:  # fmt: skip
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a warm start")

    monkeypatch.setattr(launch, "warm_start", never)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=message):
        run(objective, **options)
    assert [*tmp_path.iterdir()] == []


def test_mismatched_responses_belong_to_other_prompts(
    run: Run, numbers: Numbers, tmp_path: Path
) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"{k}?", "chosen": str(k), "rejected": str(k * 7 % 10)} for k in range(1, 10)
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    options = {"task.name": str(data), "warm_start.steps": 0, "learner.lr": 1e-2}
    result = run("kto", steps=12, **options)
    steps = numbers(result.folder)
    assert steps[-1]["objective"] > steps[0]["objective"]
    assert all(step["kl"] >= 0 for step in steps)
    with pytest.raises(ConfigError, match="to other prompts of a step, which has one"):
        run("kto", output=tmp_path / "single", **options, **{"sampler.prompts": 1})
    rows[3]["rejected"] = None  # type: ignore[assignment]
    data.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match=r"pairs.jsonl row 4: `rejected` is None: the text"):
        run("dpo", output=tmp_path / "null", **options)


def test_a_column_of_the_task_is_in_its_domain(run: Run, tmp_path: Path) -> None:
    data, text = tmp_path / "weighed.jsonl", tmp_path / "weighed.obj"
    rows = [{"prompt": f"{k}?", "answer": str(k), "level": k / 4} for k in range(1, 6)]
    data.write_text("\n".join(map(json.dumps, rows)))
    text.write_text(
        "objective weighed\ngiven level[p] in (0, 1]\n"
        "maximize mean[p,i] (level * reward * sum[t] log(pi))\n"
    )
    options = {"task.name": str(data), "warm_start.steps": 0, "rewards": {"exact": 1.0}}
    with pytest.raises(
        ConfigError,
        match=r"weighed.jsonl row 5: the column `level` is 1\.25, outside of its domain \(0, 1\]",
    ):
        run(str(text), output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    rows.pop()
    data.write_text("\n".join(map(json.dumps, rows)))
    assert run(str(text), output=tmp_path / "out", steps=1, **options).steps == 1


def test_a_name_that_is_too_long_for_a_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "long" * 100
    text = f"objective {name}\nmaximize mean[p,i] (reward * sum[t] log(pi))\n"
    (tmp_path / "x.obj").write_text(text)
    for resume in (None, "auto"):
        with pytest.raises(ConfigError, match=r"the name (long){8}\.{3} is too long for"):
            run("x.obj", output=None, _resume=resume)
    with pytest.raises(ConfigError, match="the path of the run is too long"):
        run("x.obj", output=tmp_path / "new" / name)
    assert [path.name for path in tmp_path.iterdir()] == ["x.obj"]
    assert run("x.obj", steps=1).steps == 1
