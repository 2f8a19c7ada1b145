"""`ObjectiveTrainer`: TRL's generation, rewards and loop, and the objective's own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.two_processes import run_two

# TRL looks whether there is a vLLM, and would take seconds to import what no test here uses.
installed = pytest.importorskip("trl.import_utils")
installed.is_vllm_available = lambda min_version=None: False
pytest.importorskip("trl.trainer.grpo_trainer")

from trl import GRPOConfig, GRPOTrainer  # noqa: E402
from trl.trainer.utils import shuffle_sequence_dict  # noqa: E402

import objdsl  # noqa: E402
from helpers import tiny_model, trl_ranks  # noqa: E402
from objdsl.adapters.needs import UnsupportedError, given, refused  # noqa: E402
from objdsl.adapters.trl import ObjectiveTrainer  # noqa: E402
from objdsl.adapters.trl_settings import DECIDED  # noqa: E402
from objdsl.objectives import gallery  # noqa: E402

Numbers = tuple[float, dict[str, Tensor]]


def objective_trainer(objective: Any, folder: Path, **options: Any) -> Any:
    given = {
        key: options.pop(key)
        for key in ("reward_funcs", "train_dataset", "model", "eval_dataset", "rollout_func")
        if key in options
    }
    return ObjectiveTrainer(
        objective,
        **{
            "model": tiny_model.model(),
            "reward_funcs": tiny_model.score,
            "train_dataset": tiny_model.data(),
            "processing_class": tiny_model.tokenizer(),
            **given,
        },
        args=GRPOConfig(**tiny_model.settings(folder, **options)),
    )


def saved_model(folder: Path) -> str:
    """TRL loads the reference model from where the model came from."""
    tiny_model.model().save_pretrained(folder / "model")
    return str(folder / "model")


def first_step(trainer: Any, moved: bool = True) -> Numbers:
    """The loss and the gradients of an optimizer step, added up by TRL's loop; with `moved`, of the
    second step on the same responses."""
    window = trainer.args.gradient_accumulation_steps
    trainer.current_gradient_accumulation_steps = window
    trainer.model.train()
    torch.manual_seed(5)
    if moved:
        trainer._prepare_inputs(tiny_model.rows())
        tiny_model.move(trainer.model)
    loss = 0.0
    for number in range(window):
        trainer._step = window * moved + number
        inputs = trainer._prepare_inputs(tiny_model.rows())
        part = trainer.compute_loss(trainer.model, inputs)
        part.backward()
        loss += float(part.detach())
    gradients = {name: x.grad.clone() for name, x in trainer.model.named_parameters()}
    return loss, gradients


def assert_close(actual: Numbers, wanted: Numbers, rel: float = 1e-5) -> None:
    assert actual[0] == pytest.approx(wanted[0], rel=rel, abs=rel)
    largest = max(float(x.abs().max()) for x in wanted[1].values())
    assert largest > 0
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(actual[1][name], gradient, rtol=rel, atol=rel * largest)


def directly(trainer: Any, objective: objdsl.Objective) -> Numbers:
    """The objective called directly, on all responses that the trainer holds, in one piece."""
    batches: list[dict[str, Any]] = trainer._buffered_inputs
    batch = {
        name: torch.cat([part[name] for part in batches])
        for name, x in batches[0].items()
        if isinstance(x, Tensor) and x.dim()
    }
    sequences = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    width = batch["completion_ids"].size(1)
    texts = trainer.processing_class.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    log_pi = trainer._get_per_token_logps_and_entropies(trainer.model, sequences, seen, width)[0]
    old = batch.get("old_per_token_logps", log_pi.detach())
    trainer.model.zero_grad()
    out = objective(
        log_pi=log_pi,
        log_old=old,
        log_mu=old,
        log_ref=batch.get("ref_per_token_logps", old),
        reward=torch.tensor(tiny_model.score_for(objective)(texts)),
        truncated=(batch["completion_mask"] * (batch["completion_ids"] == 1)).sum(1) == 0,
        prompt=torch.unique(batch["prompt_ids"], dim=0, return_inverse=True)[1],
        mask=batch["completion_mask"],
    )
    out.loss.backward()
    gradients = {name: x.grad.clone() for name, x in trainer.model.named_parameters()}
    return float(out.loss.detach()), gradients


REFUSED = [
    "adaptive_kl", "bupo", "domain_teachers", "dual_clip", "echo", "gigpo",
    "gkd", "high_entropy", "kl_exact", "on_policy_distillation", "otb", "ppo",
    "ppo_annealed", "prorl", "safe_rlhf", "spo", "top_k_distillation", "vapo", "warp",
    "frameworks/openrlhf_ppo", "frameworks/verl_ppo",
]  # fmt: skip

# Token means, means of means, ratios of responses, a reference, the position of a token, what is
# drawn from all tokens of the step, three policies, and no ratio at all.
OBJECTIVES = ["grpo", "dapo", "gspo", "rloo", "reinforce_pp", "kl_cov", "decoupled_ppo", "dr_grpo"]


def test_what_of_the_gallery_is_refused() -> None:
    policies = ("pi", "old", "mu", "ref")
    names = [name for name in gallery.names() if [*refused(objdsl.load(name), policies)]]
    assert sorted(names) == sorted(REFUSED)


def others() -> list[Any]:
    """The rest of the gallery, except objectives that need columns of the data or draw tokens."""
    names = [name for name in gallery.names() if name not in {*REFUSED, *OBJECTIVES}]
    able = [objdsl.load(name) for name in names]
    plain = [
        name
        for name, objective in zip(names, able, strict=True)
        if not given(objective) and "noise" not in objective.columns
    ]
    return [pytest.param(name, marks=pytest.mark.proof) for name in plain]


@pytest.mark.parametrize("name", [*OBJECTIVES, *others()])
def test_the_micro_batches_of_a_step_add_up_to_the_objective(name: str, tmp_path: Path) -> None:
    objective = objdsl.load(name)
    options: dict[str, Any] = {"reward_funcs": tiny_model.score_for(objective)}
    if "log_ref" in objective.columns:
        options["model"] = saved_model(tmp_path)
    whole = objective_trainer(objective, tmp_path, num_iterations=2, **options)
    wanted = first_step(whole)
    assert_close(directly(whole, objective), wanted)
    for window in (2, 4):
        cut = objective_trainer(
            objective,
            tmp_path,
            num_iterations=2,
            gradient_accumulation_steps=window,
            per_device_train_batch_size=8 // window,
            **options,
        )
        assert_close(first_step(cut), wanted)


def test_the_same_policy_is_asked_once(tmp_path: Path) -> None:
    """On policy, the training pass also gives `old` and `mu`, unless they are needed before."""
    cases = [("frameworks/trl_grpo", 4), ("gspo", 4), ("decoupled_ppo", 8), ("kl_cov", 8)]
    for name, passes in cases:
        objective = objdsl.load(name)
        trainer = objective_trainer(
            objective, tmp_path, gradient_accumulation_steps=4, per_device_train_batch_size=2
        )
        asked: list[int] = []
        answer = trainer._get_per_token_logps_and_entropies

        def counted(
            model: Any, sequences: Tensor, *args: Any, batch_size: int = 2, **kw: Any
        ) -> Any:
            asked.append(len(sequences) // batch_size)  # noqa: B023
            return answer(model, sequences, *args, batch_size=batch_size, **kw)  # noqa: B023

        trainer._get_per_token_logps_and_entropies = counted
        actual = first_step(trainer, moved=False)
        assert sum(asked) == passes
        assert_close(actual, directly(trainer, objective))


def test_rows_in_any_order(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_iterations": 2, "model": saved_model(tmp_path)}
    whole = objective_trainer("grpo", tmp_path, **options)
    cut = objective_trainer(
        "grpo",
        tmp_path,
        gradient_accumulation_steps=4,
        per_device_train_batch_size=2,
        **options,
    )
    generate = cut._generate_and_score_completions
    cut._generate_and_score_completions = lambda rows: shuffle_sequence_dict(generate(rows))
    assert_close(first_step(cut), first_step(whole))
    groups = [batch["objective.prompt"].tolist() for batch in cut._buffered_inputs]
    assert sorted(groups) != [[0, 0], [0, 0], [1, 1], [1, 1]]


@pytest.mark.parametrize("window", [1, 4])
def test_trl_grpo_is_what_trl_computes(window: int, tmp_path: Path) -> None:
    options = {
        "num_iterations": 2,
        "gradient_accumulation_steps": window,
        "per_device_train_batch_size": 8 // window,
    }
    theirs = GRPOTrainer(
        tiny_model.model(),
        tiny_model.score,
        args=GRPOConfig(**tiny_model.settings(tmp_path, **options)),
        train_dataset=tiny_model.data(),
        processing_class=tiny_model.tokenizer(),
    )
    ours = objective_trainer("frameworks/trl_grpo", tmp_path, **options)
    assert_close(first_step(ours), first_step(theirs))


def test_several_optimizer_steps_of_a_generation_have_whole_groups(tmp_path: Path) -> None:
    trainer = objective_trainer(
        "grpo",
        tmp_path,
        model=saved_model(tmp_path),
        steps_per_generation=4,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=2,
    )
    steps = tiny_model.prepared_steps(trainer)
    trainer.model.train()
    trainer._prepare_inputs(tiny_model.rows())
    assert [len(step) for step in steps] == [4, 4]
    assert all(step.environment["n_prompts"] == 1 for step in steps)


def test_responses_without_a_score_are_left_out(tmp_path: Path) -> None:
    """The step is computed as if they had not been drawn."""

    def some(completions: list[str], **_: Any) -> list[float | None]:
        scores = tiny_model.score(completions)
        return [None if i in (1, 6, 7) else x for i, x in enumerate(scores)]

    options = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2}
    trainer = objective_trainer("rloo", tmp_path, reward_funcs=some, num_iterations=2, **options)
    steps = tiny_model.prepared_steps(trainer)
    actual = first_step(trainer)
    assert [len(step) for step in steps] == [5]
    kept = [0, 2, 3, 4, 5]
    batches = trainer._buffered_inputs
    whole = {
        name: torch.cat([batch[name] for batch in batches])[kept]
        for name, x in batches[0].items()
        if isinstance(x, Tensor) and x.dim()
    }
    trainer._buffered_inputs = [whole]
    assert_close(actual, directly(trainer, trainer.objective))


def test_given_columns_are_reward_functions_or_columns_of_the_dataset(tmp_path: Path) -> None:
    text = """
objective two
given brevity[p,i]
given weight[p]
A = reward - mean[i] reward + brevity - mean[i] brevity
maximize mean[p,i] (weight * sum[t] (A * log(pi)))
"""

    def brevity(completions: list[str], **_: Any) -> list[float]:
        return [-len(text) / 8 for text in completions]

    objective = objdsl.loads(text)
    data = tiny_model.data(weight=[1.0, 2.0, 3.0, 4.0])
    options = {"train_dataset": data, "reward_funcs": [tiny_model.score, brevity], "max_steps": 1}
    trainer = objective_trainer(objective, tmp_path, reward_weights=[1.0, 0.0], **options)
    steps = tiny_model.prepared_steps(trainer)
    trainer.train()
    (step,) = steps
    responses = trainer._buffered_inputs[0]["completion_ids"]
    texts = trainer.processing_class.batch_decode(responses, skip_special_tokens=True)
    assert step.responses["prompt"].tolist() == [0] * 4 + [1] * 4
    batch = trainer._buffered_inputs[0]
    assert batch["objective.reward"].tolist() == tiny_model.score(texts)
    assert batch["objective.brevity"].tolist() == brevity(texts)
    assert set(batch["objective.weight"].tolist()) <= {1.0, 2.0, 3.0, 4.0}
    with pytest.raises(UnsupportedError, match="`given brevity` is neither a reward function nor"):
        objective_trainer(objective, tmp_path, train_dataset=data)


def test_what_a_sampler_says_and_what_an_environment_writes(tmp_path: Path) -> None:
    """`mu` is the log-probability that the sampler reported, or `old` where it reported none;
    tokens of the environment are not part of a response."""

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        sequences = [[3 + k % 10, 4, 13, 6, 1] for k, _ in enumerate(prompts)]
        return {
            "prompt_ids": [trainer.processing_class(prompt)["input_ids"] for prompt in prompts],
            "completion_ids": sequences,
            "logprobs": [[-2.5, -2.0, 0.0, None, -3.0] for _ in sequences],
            "env_mask": [[1, 1, 0, 1, 1] for _ in sequences],
        }

    objective = objdsl.load("frameworks/trl_grpo_vllm", C=50)
    options = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2}
    trainer = objective_trainer(
        objective, tmp_path, rollout_func=rollout, num_iterations=2, **options
    )
    steps = tiny_model.prepared_steps(trainer)
    actual = first_step(trainer)
    batches = trainer._buffered_inputs
    batch = {
        name: torch.cat([part[name] for part in batches])
        for name, x in batches[0].items()
        if isinstance(x, Tensor) and x.dim()
    }
    old = batch["old_per_token_logps"]
    sampled = torch.tensor([-2.5, -2.0, 0.0, 0.0, -3.0]).expand(8, 5)
    mask = torch.tensor([1, 1, 0, 1, 1]).expand(8, 5).bool()
    (step,) = steps
    assert (step.mask == mask).all() and not bool(batch["objective.truncated"].any())
    wanted = torch.where(torch.arange(5) == 3, old, sampled)
    torch.testing.assert_close(step.tokens["log_mu"], wanted * mask)
    trainer.model.zero_grad()
    sequences = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    log_pi = trainer._get_per_token_logps_and_entropies(trainer.model, sequences, seen, 5)[0]
    out = objective(
        log_pi=log_pi,
        log_old=old,
        log_mu=wanted,
        reward=batch["objective.reward"],
        prompt=torch.arange(8) // tiny_model.SIZE,
        mask=mask,
    )
    out.loss.backward()
    gradients = {name: x.grad.clone() for name, x in trainer.model.named_parameters()}
    assert_close(actual, (float(out.loss.detach()), gradients))


def test_training(tmp_path: Path) -> None:
    """Two optimizer steps of TRL's own loop: a reference, evaluation and a checkpoint."""
    trainer = objective_trainer(
        "grpo",
        tmp_path,
        model=saved_model(tmp_path),
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        max_steps=2,
        save_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        eval_dataset=tiny_model.data(),
    )
    before = {name: x.detach().clone() for name, x in trainer.model.named_parameters()}
    trainer.train()
    assert any((x != before[name]).any() for name, x in trainer.model.named_parameters())
    trained = [line for line in trainer.state.log_history if "clip_fraction" in line]
    evaluated = [line for line in trainer.state.log_history if "eval_clip_fraction" in line]
    assert len(trained) == len(evaluated) == 2
    assert all(0 <= line["clip_fraction"] <= 1 and line["entropy"] > 0 for line in trained)
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    assert trainer.ref_model is not None and trainer.args.beta == 0


def test_the_loss_that_is_logged_is_that_of_the_step(tmp_path: Path) -> None:
    """Reports, too, are sums over its micro-batches."""
    text = """
objective logged
report ten = 10 * mean[p,i,t] (pi / pi)
report entropy = mean[p,i,t] (0 * log(pi) + 3)
minimize mean[p,i,t] (sg(log(pi)) - log(pi) + 2)
"""
    trainer = objective_trainer(
        objdsl.loads(text),
        tmp_path,
        gradient_accumulation_steps=4,
        per_device_train_batch_size=2,
        max_steps=1,
    )
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["loss"] == pytest.approx(2, rel=1e-4)
    assert line["ten"] == pytest.approx(10, rel=1e-4)
    assert line["objective/entropy"] == pytest.approx(3, rel=1e-4)
    assert line["entropy"] < 3


# --- refusals ------------------------------------------------------------------------------------

GOAL = "maximize mean[p,i,t] (reward * log(pi))"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("objective x from ppo", r"it reads a critic \(`V`\)"),
        ("objective x from on_policy_distillation", "it reads the policy `teacher`"),
        ("objective x from kl_exact", r"it reads all of `pi\[v\]`"),
        ("objective x from bupo", "off an inner layer"),
        (f"objective x\nsample from mu: temperature 0.6\n{GOAL}", "samples with temperature 0.6"),
        (
            f"objective x\ngiven c[p,i] before i\nsample from mu: branch c\n{GOAL}",
            "its rollouts branch by `c`",
        ),
        (f"objective x\ngiven c[p,i,t]\n{GOAL.replace('reward', 'c')}", "`c` of every token"),
    ],
)
def test_what_trl_cannot_feed(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        objective_trainer(objdsl.loads(text + "\n"), tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss_type": "grpo"}, "the objective decides on loss_type, which is set to 'grpo'"),
        ({"epsilon": 0.1, "beta": 0.04}, "decides on beta.*\n.*decides on epsilon"),
        ({"scale_rewards": "none"}, "decides on scale_rewards"),
        ({"mask_truncated_completions": True}, "it can read `truncated`"),
        ({"vllm_importance_sampling_clip_max": 2.0}, "vllm_importance_sampling_clip_max"),
        ({"top_p": 0.9}, "keeps the sampler's mask"),
        (
            {"gradient_accumulation_steps": 4, "steps_per_generation": 2},
            "must be a multiple of gradient_accumulation_steps",
        ),
        (
            {"steps_per_generation": 4, "per_device_train_batch_size": 2},
            "an optimizer step takes 2 responses of each process, which cuts groups of 4",
        ),
    ],
)
def test_settings_that_contradict(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    text = f"objective x\nsample from mu: keep_mask\n{GOAL}\n"
    with pytest.raises(UnsupportedError, match=reason):
        objective_trainer(objdsl.loads(text), tmp_path, **options)


def test_mu_of_a_distribution_that_transformers_does_not_return(tmp_path: Path) -> None:
    text = "objective x\nmaximize mean[p,i,t] (pi / mu * reward)\n"
    with pytest.raises(UnsupportedError, match="it reads `mu`"):
        objective_trainer(objdsl.loads(text), tmp_path, repetition_penalty=1.2)


def test_trl_still_has_what_the_objective_decides() -> None:
    assert {*DECIDED} <= {*GRPOConfig.__dataclass_fields__}


# --- several processes ---------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    run_two(trl_ranks.work, tmp_path)
