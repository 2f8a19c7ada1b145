"""Objectives in verl's workers: every optimizer step is the objective's, however verl cuts it."""

from __future__ import annotations

import ast
import pickle
import random
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("verl.workers.utils.losses")

from omegaconf import OmegaConf
from verl.workers.config import ActorConfig

import objdsl
from helpers import gallery_steps
from helpers.samples import entries
from helpers.verl_engine import (
    EOS,
    TableEngine,
    Trained,
    batch_of,
    data_for,
    directly,
    queued,
    sent,
    train,
)
from objdsl import InputError
from objdsl.adapters import verl, verl_plugin
from objdsl.adapters.needs import UnsupportedError
from objdsl.adapters.verl_names import ESTIMATOR
from objdsl.adapters.verl_settings import (
    DECIDED,
    out_of_reach,
    refuse_contradictions,
)
from objdsl.adapters.verl_steps import ObjectiveLoss
from objdsl.adapters.verl_trainer import ready, whole_groups
from objdsl.objectives import gallery

STEP = 7  # rows: two of the four groups

CARRIED = [name for name in gallery.names() if not [*out_of_reach(objdsl.load(name))]]


class Workers:
    """A worker group, as far as the driver asks it before a step."""

    def __init__(self, ranks: int) -> None:
        self._dispatch_info = {"actor": [*range(ranks)]}
        self.losses: list[ObjectiveLoss] = []

    def set_loss_fn(self, loss: ObjectiveLoss) -> None:
        self.losses.append(loss)


def trainer(ranks: int = 1, rows: int = STEP) -> Any:
    actor, rollout = SimpleNamespace(ppo_mini_batch_size=rows), SimpleNamespace(n=1)
    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(actor=actor, rollout=rollout))
    return SimpleNamespace(actor_rollout_wg=Workers(ranks), config=config)


@pytest.mark.parametrize("name", entries(CARRIED))
def test_micro_batches_that_cut_groups_add_up_to_each_step(name: str) -> None:
    """Micro-batches have about 20 tokens, as verl's dynamic batches do; two steps of two groups."""
    objective = objdsl.load(name, **gallery_steps.PARAMS.get(name, {}))
    d = data_for(objective)
    batch = batch_of(d)
    ready(trainer(), objective, batch)
    engine = TableEngine(d["log_pi"])
    loss = pickle.loads(pickle.dumps(ObjectiveLoss(objective)))
    train(engine, sent(batch, use_dynamic_bsz=True, max_token_len_per_gpu=20), loss, STEP)
    assert engine.passes == (2 if objective.needs_couple else 0)
    assert [len(step.rows) for step in engine.steps] == [STEP, STEP]
    for number, step in enumerate(engine.steps, 1):
        assert step.micro_batches > 1
        wanted, expected = directly(objective, d, step.rows, seed=number)
        assert step.loss == pytest.approx(wanted, rel=1e-8, abs=1e-9)
        torch.testing.assert_close(step.gradient, expected, rtol=1e-8, atol=1e-9)
    assert any(bool(step.gradient.any()) for step in engine.steps)


def one_step(objective: objdsl.Objective, d: Any, batch: Any) -> Trained:
    """The step of a whole batch, a response at a time."""
    engine = TableEngine(d["log_pi"])
    rows = len(batch)
    train(engine, sent(batch, micro_batch_size_per_gpu=1), ObjectiveLoss(objective), rows)
    (step,) = engine.steps
    assert step.micro_batches == rows
    return step


@pytest.mark.parametrize("name", ["icepop", "kl_cov", "simpo"])
def test_rows_without_padding(name: str) -> None:
    """As the trainer `v1` has them; with holes in responses, where tools answered."""
    objective = objdsl.load(name, **gallery_steps.PARAMS.get(name, {}))
    d = data_for(objective)
    batch = batch_of(d)
    d.mask = d.mask & ~((torch.arange(d.mask.shape[1]) == 1) & (d.lengths[:, None] > 2))
    batch.batch["response_mask"] = d.mask.long()
    engine = TableEngine(d["log_pi"])
    td = queued(batch, micro_batch_size_per_gpu=2)
    train(engine, td, ObjectiveLoss(objective), len(batch))
    wanted, expected = directly(objective, d, range(len(batch)))
    (step,) = engine.steps
    assert step.micro_batches == len(batch) // 2 and bool(expected.any())
    assert step.loss == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(step.gradient, expected, rtol=1e-8, atol=1e-10)


def test_reports_add_up_as_well() -> None:
    objective = objdsl.load("grpo", eps=0.1)
    d = data_for(objective)
    step = one_step(objective, d, batch_of(d))
    columns = {name: d[name] for name in ("log_old", "log_ref", "reward")}
    prepared = objective.prepare(mask=d.mask, prompt=d.step.prompt, **columns)
    reports = objective(d["log_pi"], prepared).reports
    assert reports["clip_fraction"] > 0
    for name, value in reports.items():
        assert step.metrics[name].aggregate() == pytest.approx(value.item(), rel=1e-6)


def test_reports_under_names_that_verl_has() -> None:
    goal = "maximize mean[p,i,t] (reward * log(pi))"
    objective = objdsl.loads(f"objective x\nreport lr = mean[p,i] reward\n{goal}\n")
    d = data_for(objective)
    metrics = one_step(objective, d, batch_of(d)).metrics
    mean = d["reward"].mean().item()
    assert metrics["objective/lr"].aggregate() == pytest.approx(mean, rel=1e-6)
    assert "lr" not in metrics


def test_responses_without_tokens_are_left_out() -> None:
    """verl's rejection, and rows that only fill a batch up, leave an empty mask behind."""
    objective = objdsl.load("dapo")
    d = data_for(objective)
    batch = batch_of(d)
    last = {prompt: row for row, prompt in enumerate(d.step.prompt)}
    kept = torch.ones(len(d.mask), dtype=torch.bool)
    kept[[row for prompt, row in last.items() if d.step.prompt.count(prompt) > 2]] = False
    batch.batch["response_mask"] = batch.batch["response_mask"] * kept[:, None]
    step = one_step(objective, d, batch)
    wanted, expected = directly(objective, d, kept.nonzero().squeeze(1))
    assert step.loss == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(step.gradient, expected, rtol=1e-8, atol=1e-10)
    batch.batch["response_mask"] = torch.zeros_like(batch.batch["response_mask"])
    nothing = one_step(objective, d, batch)
    assert nothing.loss == 0 and not bool(nothing.gradient.any())


def test_what_else_a_file_can_read() -> None:
    """The rewards of tokens, a column that the reward function returned, which responses were cut
    off, and ids of tokens."""
    text = """
objective several
given progress[p,i,t] as reward
given depth[p,i]
A = sum[s >= t] progress + depth * 0.1 - 0.2 * truncated
maximize mean[p,i,t] (A * (1 + (token == 1)) * log(pi))
"""
    objective = objdsl.loads(text)
    d = data_for(objective)
    batch = batch_of(d)
    d.columns["progress"] = torch.randn(d.mask.shape, dtype=torch.float64) * d.mask
    d.columns["depth"] = torch.arange(len(d.mask)).double()
    d.columns["token_ids"] = batch.batch["responses"]
    assert bool(d["truncated"].any()) and bool((d["token_ids"] == EOS).any())
    batch.batch["token_level_rewards"] = d["progress"]
    extra = [{"reward_extra_info": {"depth": k}} for k in range(len(d.mask))]
    batch.non_tensor_batch["extra_fields"] = np.array(extra, dtype=object)
    step = one_step(objective, d, batch)
    wanted, expected = directly(objective, d, range(len(d.mask)))
    assert step.loss == pytest.approx(wanted, rel=1e-9)
    torch.testing.assert_close(step.gradient, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "missing", "reason"),
    [
        ("tis", "rollout_log_probs", "it needs actor_rollout_ref.rollout.calculate_log_probs=True"),
        ("remax", "reward_baselines", "it needs algorithm.adv_estimator=remax"),
        ("dpo", "extra_info", 'let the reward function return a dictionary with .* "chosen"'),
    ],
)
def test_columns_that_verl_does_not_have(name: str, missing: str, reason: str) -> None:
    objective = objdsl.load(name)
    d = data_for(objective)
    batch = batch_of(d)
    batch.pop(*([[missing]] if missing in batch.batch else [[], [missing]]))
    with pytest.raises(InputError, match=reason):
        one_step(objective, d, batch)


def test_rows_of_no_step() -> None:
    objective = objdsl.load("rloo")
    d = data_for(objective)
    td = sent(batch_of(d), micro_batch_size_per_gpu=1)
    with pytest.raises(InputError, match=r"has to import objdsl\.adapters\.verl_plugin"):
        TableEngine(d["log_pi"]).forward_backward_batch(td, ObjectiveLoss(objective))


# --- the driver ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_every_step_has_whole_groups(seed: int, ranks: int) -> None:
    draw = random.Random(seed)
    rows, steps = 8, 3
    prompts: list[str | None] = []
    for k in range(3 * steps):
        size = draw.choice([2, 2, 2, 1])
        prompts.extend([f"prompt {k}"] * size)
    prompts.extend([None] * (rows * steps - len(prompts)))
    draw.shuffle(prompts)
    lengths = [draw.randint(1, 50) for _ in prompts]
    order = whole_groups(prompts, lengths, ranks=ranks, rows=rows)
    assert sorted(order) == [*range(rows * steps)]
    parts = torch.tensor(order).view(ranks, steps, rows // ranks)  # as verl cuts a batch
    where: dict[str | None, set[int]] = {}
    for step in range(steps):
        for row in parts[:, step].flatten().tolist():
            where.setdefault(prompts[row], set()).add(step)
    assert all(len(places) == 1 for prompt, places in where.items() if prompt is not None)


def test_groups_that_no_step_holds() -> None:
    with pytest.raises(ValueError, match="takes 4 responses, which cuts groups of 2, 3"):
        whole_groups([1, 1, 1, 2, 2, 2, 3, 3], [1] * 8, ranks=1, rows=4)


def test_the_order_of_whole_groups_is_that_of_the_batch() -> None:
    assert whole_groups([5, 5, 3, 3, 9, 9, 1, 1], [1] * 8, ranks=1, rows=4) == [*range(8)]


def test_the_loss_is_sent_once() -> None:
    objective = objdsl.load("rloo")
    driver = trainer()
    for _ in range(2):
        ready(driver, objective, batch_of(data_for(objective)))
    (loss,) = driver.actor_rollout_wg.losses
    assert loss.objective is objective


def test_rows_of_a_queue() -> None:
    """The trainer `v1` has keys of rows: prompt, response, and output of an agent."""

    class Keys(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.keys)

        def reorder(self, order: list[int]) -> None:
            self.keys = [self.keys[row] for row in order]

    objective = objdsl.load("rloo")
    tags = [{"seq_len": 3}] * 7 + [{"seq_len": 3, "is_padding": True}]
    keys = ["a_0_0", "b_0_0", "c_0_0", "b_1_0", "a_1_0", "c_1_0", "a_2_0", "pad_0_0"]
    batch = Keys(keys=keys, tags=tags)
    ready(trainer(rows=4), objective, batch)
    prompts = [key[0] for key in batch.keys]
    assert {*prompts[:4]} == {"a", "p"} and {*prompts[4:]} == {"b", "c"}
    with pytest.raises(UnsupportedError, match="the response a_0_1 is the output number 1"):
        ready(trainer(rows=8), objective, Keys(keys=["a_0_1", *keys[1:]], tags=tags))


# --- settings ------------------------------------------------------------------------------------


def settings(**changes: Any) -> Any:
    """verl's defaults, and what an objective asks for; `changes` are named by their last part."""
    tree = {
        "actor_rollout_ref": {
            "actor": {
                "strategy": "fsdp2",
                "ppo_mini_batch_size": 8,
                "policy_loss": {"loss_mode": "objdsl:grpo"},
                "shuffle": False,
                "use_kl_loss": False,
            },
            "rollout": {
                "calculate_log_probs": False,
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": -1,
            },
        },
        "algorithm": {
            "adv_estimator": "objdsl",
            "use_kl_in_reward": False,
            "rollout_correction": {"bypass_mode": False, "rollout_is": None},
            "filter_groups": {"enable": False},
        },
        "data": {"train_batch_size": 8},
        "trainer": {"use_v1": True},
        "distillation": {"enabled": False},
    }
    config = OmegaConf.create(tree)
    for path, value in changes.items():
        OmegaConf.update(config, path.replace("__", "."), value)
    return config


ACTOR, ROLLOUT = "actor_rollout_ref__actor", "actor_rollout_ref__rollout"


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("grpo", {f"{ACTOR}__clip_ratio_high": 0.28}, "decides on actor.clip_ratio_high, .* 0.28"),
        ("grpo", {f"{ACTOR}__use_kl_loss": True}, "decides on actor.use_kl_loss"),
        ("grpo", {f"{ACTOR}__entropy_coeff": 0.01}, "decides on actor.entropy_coeff"),
        ("grpo", {f"{ACTOR}__policy_loss__ppo_kl_coef": 0.2}, "actor.policy_loss.ppo_kl_coef"),
        ("grpo", {"algorithm__adv_estimator": "gae"}, "set algorithm.adv_estimator=objdsl"),
        ("grpo", {"algorithm__use_kl_in_reward": True}, "takes a KL from rewards"),
        ("grpo", {"algorithm__rollout_correction__bypass_mode": True}, "calls `mu` old"),
        ("grpo", {"algorithm__rollout_correction__rollout_is": "token"}, "rollout_is has weights"),
        ("grpo", {"algorithm__filter_groups__enable": True}, "`keep` says which"),
        ("grpo", {"distillation__enabled": True}, "distillation adds a loss"),
        ("grpo", {f"{ACTOR}__shuffle": True, f"{ACTOR}__ppo_mini_batch_size": 4}, "groups whole"),
        ("tis", {}, "set actor_rollout_ref.rollout.calculate_log_probs=True"),
        ("remax", {}, "set trainer.use_v1=False and algorithm.adv_estimator=remax"),
        ("kl_cov", {f"{ACTOR}__strategy": "megatron"}, "fsdp or fsdp2, not megatron"),
        ("frameworks/verl_ppo", {}, "it reads a critic"),
        ("kl_exact", {}, "it reads all of"),
        ("spo", {}, "it remembers the state `won`"),
    ],
)
def test_settings_that_contradict(name: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        refuse_contradictions(objdsl.load(name), settings(**changes))


def test_all_reasons_are_given_at_once() -> None:
    config = settings(algorithm__adv_estimator="rloo", algorithm__use_kl_in_reward=True)
    with pytest.raises(UnsupportedError) as refusal:
        refuse_contradictions(objdsl.load("decoupled_ppo"), config)
    assert len(refusal.value.reasons) == 3


def test_settings_that_do_not() -> None:
    refuse_contradictions(objdsl.load("grpo"), settings())
    refuse_contradictions(objdsl.load("dapo"), settings(algorithm__filter_groups__enable=True))
    one_step = {f"{ACTOR}__shuffle": True}  # groups are whole in the one step that there is
    refuse_contradictions(objdsl.load("grpo"), settings(**one_step))
    changes = {"algorithm__adv_estimator": "remax", "trainer__use_v1": False}
    refuse_contradictions(objdsl.load("remax"), settings(**changes))


def test_how_responses_are_sampled() -> None:
    text = """
objective x
sample from mu: temperature 0.6, top_p 0.9, top_k 20, keep_mask
maximize mean[p,i,t] (reward * log(pi))
"""
    config = settings(**{f"{ROLLOUT}__temperature": 0.7})
    with pytest.raises(UnsupportedError) as refusal:
        refuse_contradictions(objdsl.loads(text), config)
    drawn = [reason for reason in refusal.value.reasons if "samples with" in reason]
    assert [reason.split()[3] for reason in drawn] == ["temperature", "top_p", "top_k"]
    drawn_so = {"temperature": 0.6, "top_p": 0.9, "top_k": 20}
    config = settings(**{f"{ROLLOUT}__{name}": value for name, value in drawn_so.items()})
    with pytest.raises(UnsupportedError, match="keeps the sampler's mask") as refusal:
        refuse_contradictions(objdsl.loads(text), config)
    assert len(refusal.value.reasons) == 1


def test_verl_still_has_what_the_objective_decides() -> None:
    assert {*DECIDED} <= {field.name for field in fields(ActorConfig)}


# --- the plugin ----------------------------------------------------------------------------------


def test_a_reference_is_loaded_where_an_objective_reads_one() -> None:
    utils = pytest.importorskip("verl.trainer.ppo.utils")
    path = f"{ACTOR}__policy_loss__loss_mode"
    assert utils.need_reference_policy(settings())
    assert not utils.need_reference_policy(settings(**{path: "objdsl:rloo"}))
    assert not utils.need_reference_policy(settings(**{path: "vanilla"}))
    assert utils.need_reference_policy(settings(**{path: "vanilla", f"{ACTOR}__use_kl_loss": True}))


def test_a_loss_mode_is_a_path_or_a_name(tmp_path: Path) -> None:
    path = f"{ACTOR}__policy_loss__loss_mode"
    text = "objective mine from grpo\nparam eps = 0.3\n"
    (tmp_path / "mine.obj").write_text(text, encoding="utf-8")
    mine = verl_plugin.chosen(settings(**{path: f"objdsl:{tmp_path}/mine.obj"}))
    assert mine.name == "mine" and mine.params["eps"] == 0.3
    assert verl_plugin.chosen(settings(**{path: "gspo"})) is None
    with pytest.raises(objdsl.ObjectiveError, match="no such file"):
        verl_plugin.chosen(settings(**{path: "objdsl:nowhere.obj"}))


def test_no_advantages_are_computed() -> None:
    core = pytest.importorskip("verl.trainer.ppo.core_algos")
    rewards = torch.ones(2, 3)
    estimate = core.get_adv_estimator_fn(ESTIMATOR)
    advantages, returns = estimate(token_level_rewards=rewards, response_mask=rewards, index=[0, 1])
    assert not bool(advantages.any()) and returns.shape == rewards.shape


def test_the_entry_point_imports_the_plugin_alone() -> None:
    """verl imports it while it is half imported itself."""
    root = Path(objdsl.__file__).resolve().parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["verl.plugins"] == {"objdsl": verl_plugin.__name__}
    code = f"import {verl_plugin.__name__}, sys; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = ast.literal_eval(done.stdout)
    assert not {"torch", "verl", "objdsl.objective", "objdsl.ir"} & {*imported}


# --- the table in the documentation --------------------------------------------------------------


def test_the_documentation_says_what_of_the_gallery_is_carried(
    request: pytest.FixtureRequest,
) -> None:
    path = Path(objdsl.__file__).resolve().parents[1] / "docs" / "frameworks.md"
    page = path.read_text(encoding="utf-8")
    before, mark, rest = page.partition(
        "| objective | `objdsl:` | registries |\n| --- | --- | --- |\n"
    )
    _, end, after = rest.partition("\n\n## What each framework provides")
    wanted = before + mark + "\n".join(map(_row, gallery.names())) + end + after
    if request.config.getoption("--update-golden"):
        path.write_text(wanted, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == wanted


def _row(name: str) -> str:
    objective = objdsl.load(name)
    wide = "; ".join(out_of_reach(objective)).replace("|", "\\|")
    try:
        narrow = verl.halves(objective)
    except UnsupportedError:
        registries = "no"
    else:
        registries = "yes" if _estimated(objective, narrow) else "the loss"
    return f"| `{name}` | {(wide and f'no: {wide}') or 'yes'} | {registries} |"


def _estimated(objective: objdsl.Objective, narrow: verl.Halves) -> bool:
    """Whether verl tells an estimator what the advantage reads."""
    if narrow.advantage is None:
        return True
    try:
        verl.advantage_estimator(objective)
    except UnsupportedError:
        return False
    return True
