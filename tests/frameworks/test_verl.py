"""Configurations of verl: the imported objective is what verl's own functions compute."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from objdsl import driver, frameworks
from objdsl.errors import ObjectiveError
from objdsl.frameworks import verl_advantages, verl_correction, verl_losses, verl_writer, versions
from objdsl.frameworks import verl_settings as known

verl = pytest.importorskip("verl")

from helpers import verl_runs  # noqa: E402
from helpers.mistakes import errors_of  # noqa: E402

TESTED = 20
ROOT = Path(verl.__file__).parents[1]

GRPO = """\
set -x

MODEL=Qwen/Qwen3-8B
rollouts=${ROLLOUTS:-5}
ENTROPY=0

python3 -m verl.trainer.main_ppo \\
    algorithm.adv_estimator=grpo \\
    data.train_files=$HOME/data/gsm8k/train.parquet \\
    data.train_batch_size=1024 \\
    data.max_response_length=1024 \\
    data.truncation='error' \\
    actor_rollout_ref.model.path=$MODEL \\
    actor_rollout_ref.actor.optim.lr=1e-6 \\
    actor_rollout_ref.actor.ppo_mini_batch_size=256 \\
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32 \\
    actor_rollout_ref.actor.use_kl_loss=True \\
    actor_rollout_ref.actor.kl_loss_coef=0.001 \\
    actor_rollout_ref.actor.kl_loss_type=low_var_kl \\
    actor_rollout_ref.actor.entropy_coeff=$ENTROPY \\
    actor_rollout_ref.actor.fsdp_config.param_offload=False \\
    actor_rollout_ref.rollout.name=vllm \\
    "actor_rollout_ref.rollout.n=${rollouts}" \\
    +actor_rollout_ref.rollout.engine_kwargs.vllm.seed=1 \\
    algorithm.use_kl_in_reward=False \\
    trainer.logger='["console","wandb"]' \\
    trainer.n_gpus_per_node=8 \\
    trainer.total_epochs=15 $@  # more
"""
"""A run of GRPO, as scripts start them."""

DAPO = """\
algorithm:
  adv_estimator: grpo
  filter_groups: {enable: true, metric: acc}
  rollout_correction:
    rollout_is: token
    rollout_is_threshold: 2.0
    rollout_rs: seq_mean_k1
    rollout_rs_threshold: "0.99_1.01"
actor_rollout_ref:
  actor:
    clip_ratio_low: 0.2
    clip_ratio_high: 0.28
    clip_ratio_c: 10.0
    loss_agg_mode: token-mean
    ppo_mini_batch_size: 32
    use_dynamic_bsz: true
  rollout:
    n: 16
    temperature: 1.0
    top_p: 1.0
data.train_batch_size: 512
reward.reward_manager.name: dapo
"""

DR_GRPO = """\
algorithm.adv_estimator: grpo
algorithm.norm_adv_by_std_in_grpo: false
actor_rollout_ref.actor.loss_agg_mode: seq-mean-token-sum-norm
actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu: 8
actor_rollout_ref.actor.policy_loss.loss_mode: gspo
actor_rollout_ref.rollout.n: 8
"""

PPO = """\
algorithm:
  use_kl_in_reward: true
  kl_penalty: k3
  kl_ctrl: {type: adaptive, target_kl: 0.05}
  lam: 0.95
actor_rollout_ref.actor:
  entropy_coeff: 0.001
critic:
  cliprange_value: 0.2
  ppo_mini_batch_size: 128
trainer.critic_warmup: 10
"""

BYPASS = """\
algorithm:
  adv_estimator: rloo
  rollout_correction:
    bypass_mode: true
    loss_type: reinforce
    rollout_is: sequence
    rollout_is_threshold: 5
    rollout_rs: token_k1
    rollout_rs_threshold: "0.5_2"
actor_rollout_ref.actor.loss_agg_mode: token-mean
actor_rollout_ref.rollout.n: 4
trainer.use_v1: false
"""


def imported(folder: Path, text: str, name: str = "run.yaml", **options: Any) -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return driver.configured(f"verl:{file}", **options).text.replace(f"{folder}/", "")


@pytest.mark.parametrize("seed", range(TESTED))
def test_random_settings(seed: int, tmp_path: Path) -> None:
    """Value and gradient of an optimizer step, over micro-batches and one or two ranks."""
    verl_runs.compare(seed, tmp_path)


def test_random_settings_take_every_choice() -> None:
    """The 300 configurations of `make proofs` take each choice at least once."""
    every = [verl_runs.drawn(seed) for seed in range(300)]
    taken = {name: {str(s.get(name)) for s in every} for name in known.DEFAULTS}
    actor, correction = "actor_rollout_ref.actor.", "algorithm.rollout_correction."
    penalties = {f"{x}{plus}" for x in verl_runs.DIVERGENCES for plus in ("", "+")}
    for name, choices in [
        ("algorithm.adv_estimator", {*verl_advantages.ESTIMATORS}),
        (f"{actor}policy_loss.loss_mode", {*verl_losses.LOSSES}),
        (f"{actor}loss_agg_mode", {*verl_writer.AGGREGATIONS}),
        (f"{actor}kl_loss_type", penalties),
        ("algorithm.kl_penalty", penalties),
        (f"{correction}loss_type", {"ppo_clip", "reinforce"}),
        (f"{correction}rollout_is", {"None", "token", "sequence"}),
    ]:
        assert choices <= taken[name], name
    criteria = ",".join(taken[f"{correction}rollout_rs"])
    assert all(criterion in criteria for criterion in verl_correction.CRITERIA)
    fixed = {name for name, values in taken.items() if len(values) == 1}
    assert fixed == {
        # Named as outside the formula, said in other words by the settings that vary, or refused.
        "actor_rollout_ref.actor.calculate_sum_pi_squared",
        "actor_rollout_ref.actor.megatron.context_parallel_size",
        "actor_rollout_ref.actor.megatron.pipeline_model_parallel_size",
        "actor_rollout_ref.actor.megatron.tensor_model_parallel_size",
        "actor_rollout_ref.actor.policy_loss.clip_cov_lb",
        "actor_rollout_ref.actor.policy_loss.clip_cov_ratio",
        "actor_rollout_ref.actor.ppo_epochs",
        "actor_rollout_ref.actor.ppo_micro_batch_size",
        "actor_rollout_ref.actor.ppo_mini_batch_size",
        "actor_rollout_ref.actor.strategy",
        "actor_rollout_ref.actor.tau_neg",
        "actor_rollout_ref.actor.ulysses_sequence_parallel_size",
        "actor_rollout_ref.model.mtp.enable_train",
        "actor_rollout_ref.rollout.calculate_log_probs",
        "actor_rollout_ref.rollout.multi_turn.enable",
        "actor_rollout_ref.rollout.n",
        "actor_rollout_ref.rollout.response_length",
        "actor_rollout_ref.rollout.top_k",
        "actor_rollout_ref.rollout.top_p",
        "algorithm.filter_groups.enable",
        "algorithm.filter_groups.metric",
        "algorithm.gdpo_reward_keys",
        "algorithm.kl_ctrl.horizon",
        "algorithm.kl_ctrl.target_kl",
        "algorithm.pf_ppo.reweight_method",
        "algorithm.pf_ppo.weight_pow",
        "algorithm.use_pf_ppo",
        "critic.loss_agg_mode",
        "critic.loss_scale_factor",
        "critic.ppo_epochs",
        "critic.ppo_mini_batch_size",
        "data.max_response_length",
        "data.train_batch_size",
        "distillation.enabled",
        "reward.reward_manager.name",
        "trainer.critic_warmup",
        "trainer.nnodes",
        "trainer.v1.trainer_mode",
    }


def _settings(tree: dict[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _settings(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", value


@pytest.mark.parametrize("engine", ["", "_megatron", "_torchtitan", "_veomni"])
def test_every_setting_is_known(engine: str) -> None:
    """With the defaults of verl's own trees, of those that have a say."""
    file = ROOT / f"verl/trainer/config/_generated_ppo{engine}_trainer.yaml"
    theirs = dict(_settings(yaml.safe_load(file.read_text())))
    for name, value in theirs.items():
        if name == "actor_rollout_ref.actor.strategy" and engine:
            continue
        if name in known.DEFAULTS:
            assert known.DEFAULTS[name] == value, name
        else:
            expected = name in known.OTHERS or name.startswith(known.SECTIONS)
            assert expected or name.endswith("_target_"), name
    if engine == "_megatron":
        added = {name for name in known.DEFAULTS if name not in theirs}
        assert {name.rpartition(".")[2] for name in added} == {
            "gdpo_reward_keys", "gdpo_reward_weights", "ulysses_sequence_parallel_size",
        }  # fmt: skip


def test_the_installed_loss_is_the_one_that_was_read() -> None:
    for file, digest in known.DIGESTS.items():
        assert versions.digest((ROOT / file).read_text(), known.FUNCTIONS) == digest


def test_a_different_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a remark if the loss is the same, and an error if it is not."""
    text = "algorithm.adv_estimator: grpo\n"
    monkeypatch.setattr(known, "VERSION", "0.9.0")
    remark = "verl 0.9.1 is installed, and its loss is that of 0.9.0"
    assert f"# {remark}.\n" in imported(tmp_path, text)
    with monkeypatch.context() as patched:
        patched.setitem(known.DEFAULTS, "algorithm.lam", 0.9)
        with pytest.raises(ObjectiveError, match=r"algorithm\.lam differs"):
            imported(tmp_path, text)
    monkeypatch.setitem(known.DIGESTS, "verl/workers/utils/losses.py", "0")
    with pytest.raises(ObjectiveError, match=r"verl 0\.9\.1 is installed, whose loss was not read"):
        imported(tmp_path, text)


def test_scripts_trees_overrides_and_mappings_are_the_same(tmp_path: Path) -> None:
    def formula(text: str) -> str:
        return text.split("objective ")[1].partition("\n")[2]

    tree = {
        "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False},
        "actor_rollout_ref": {
            "actor": {"use_kl_loss": True, "entropy_coeff": 0},
            "rollout": {"n": 5},
        },
        "data": {"train_batch_size": 1024},
    }
    script = formula(imported(tmp_path, GRPO, "run.sh"))
    assert script == formula(imported(tmp_path, yaml.safe_dump(tree)))
    overrides = [f"{name}={value}" for name, value in _settings(tree)]
    assert script == formula(driver.configured("verl:", overrides=overrides).text)
    text = frameworks.from_config(tree).text
    assert script == formula(driver.layout(driver.Source("config", text)))
    more = ["actor_rollout_ref.rollout.n=9", "+actor_rollout_ref.actor.entropy_coeff=0.5"]
    changed = imported(tmp_path, GRPO, "run.sh", overrides=more)
    assert "group 9" in changed and "param alpha = 0.5" in changed


def test_interpolation(tmp_path: Path) -> None:
    """Defaults that refer to other settings, and values that do."""
    text = imported(
        tmp_path,
        "trainer.use_v1: false\ndata.max_response_length: 333\n"
        "actor_rollout_ref.actor.loss_agg_mode: ${critic.loss_agg_mode}\n"
        "critic.loss_agg_mode: seq-mean-token-sum-norm\n"
        "actor_rollout_ref.actor.clip_ratio_high: ${.clip_ratio}\n"
        "actor_rollout_ref.actor.clip_ratio_low: ${oc.select:not.there,0.11}\n"
        "actor_rollout_ref.actor.clip_ratio: 0.22\n",
    )
    for phrase in ("eps = 0.11", "eps_high = 0.22", "((sum[t] X) / 333)"):
        assert phrase in text
    assert text.count("333") == 2  # the critic's loss, too


def test_the_trainer_decides_on_bypass(tmp_path: Path) -> None:
    """`v1` takes the loss that is named, and no correction; the trainer before it a loss of its
    own, with the correction."""
    text = BYPASS.replace("use_v1: false", "use_v1: true")
    assert "dual_clip(surrogate(r, A" in imported(tmp_path, text)
    assert "reads neither rollout_is nor rollout_rs" in imported(tmp_path, text)
    assert "sg(w) * A * log(pi)" in imported(tmp_path, BYPASS)


def test_clip_ratio_alone_does_nothing(tmp_path: Path) -> None:
    text = imported(tmp_path, "actor_rollout_ref.actor.clip_ratio: 0.4\n")
    assert "param eps = 0.2" in text and "actor.clip_ratio does nothing unless" in text


MISTAKES = {
    "a misspelled setting": "algorithm:\n  adv_estimater: grpo\n",
    "a setting without its section": "adv_estimator: grpo\n",
    "a choice that there is not": "actor_rollout_ref:\n  actor:\n    loss_agg_mode: token_mean\n",
    "a loss that there is not": "actor_rollout_ref.actor.policy_loss.loss_mode: gpso\n",
    "numbers that are none": "algorithm.gamma: much\nactor_rollout_ref.rollout.n: 0\n",
    "an estimator that the trainer does not serve": "algorithm.adv_estimator: remax\n",
    "what an estimator asks for": "algorithm.adv_estimator: gdpo\ntrainer.use_v1: false\n",
    "covariances of micro-batches": "actor_rollout_ref.actor:\n"
    "  ppo_micro_batch_size_per_gpu: 4\n  policy_loss:\n    loss_mode: kl_cov\n",
    "micro-batches that are not set": "actor_rollout_ref.actor.policy_loss.loss_mode: geo_mean\n",
    "weights of micro-batches": BYPASS.replace(
        "rollout_is: sequence", "rollout_is: sequence\n    rollout_is_batch_normalize: true"
    )
    + "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu: 8\n",
    "responses that are drawn again": "algorithm.use_pf_ppo: true\n",
    "a distillation": "distillation:\n  enabled: true\n",
    "a critic that is off": "critic.enable: false\n",
    "one response, compared": "algorithm.adv_estimator: grpo_passk\n",
    "an estimate that verl lacks": "actor_rollout_ref.actor:\n  use_kl_loss: true\n"
    "  kl_loss_type: full\n",
    "a rejection that there is not": "algorithm.rollout_correction:\n"
    "  rollout_rs: seq_mean_k5\n  rollout_rs_threshold: 1\n",
    "a rejection without a bound": "algorithm.rollout_correction:\n  rollout_rs: token_k1\n",
    "a bound of weights": "algorithm.rollout_correction:\n  rollout_is: token\n"
    "  rollout_is_threshold: '3_2'\n",
    "a step larger than a rollout": "data.train_batch_size: 128\n",
    "a value from outside": "actor_rollout_ref.rollout.n: ${oc.env:N}\n",
    "set twice": "algorithm:\n  lam: 1\nalgorithm.lam: 0.9\n",
    "dual clip": "actor_rollout_ref.actor.clip_ratio_c: 1\n",
    "dro": "actor_rollout_ref.actor.policy_loss.loss_mode: dro\n",
}


def test_mistakes(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    golden("frameworks/verl_mistakes.txt", errors_of(MISTAKES, imported, tmp_path))


def test_imported_objectives(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    """As they are printed."""
    texts = [
        imported(tmp_path, GRPO, "grpo.sh"),
        imported(tmp_path, DAPO, "dapo.yaml"),
        imported(tmp_path, DR_GRPO, "dr_grpo.yaml"),
        imported(tmp_path, PPO, "ppo.yaml"),
        imported(tmp_path, BYPASS, "bypass.yaml"),
    ]
    for text in texts:
        driver.compile_source(driver.Source("imported.obj", text))
        assert not re.search(r"[^\x00-\x7f]", text)
    golden("frameworks/verl.obj", "\n".join(texts))
