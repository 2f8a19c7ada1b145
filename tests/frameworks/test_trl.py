"""Configurations of TRL: the imported objective is what TRL's own trainers compute."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from objdsl import driver, frameworks
from objdsl.errors import ObjectiveError
from objdsl.frameworks import trl_settings as known
from objdsl.frameworks import versions
from objdsl.frameworks.trl_dpo import LOSSES

# TRL looks whether there is a vLLM, and would take seconds to import what no test here uses.
installed = pytest.importorskip("trl.import_utils")
installed.is_vllm_available = lambda min_version=None: False
pytest.importorskip("trl.trainer.grpo_trainer")

import trl  # noqa: E402
from trl import (  # noqa: E402
    DPOConfig,
    GRPOConfig,
    ModelConfig,
    RLOOConfig,
    ScriptArguments,
)
from trl.scripts.grpo import GRPOScriptArguments  # noqa: E402
from trl.scripts.utils import DatasetMixtureConfig  # noqa: E402

from helpers import dpo_runs, trl_rank_runs, trl_runs  # noqa: E402
from helpers.mistakes import errors_of  # noqa: E402
from helpers.two_processes import run_two  # noqa: E402

TESTED = 20


def imported(folder: Path, text: str, name: str = "grpo.yaml", **options: Any) -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    text = frameworks.configured(f"trl:{file}", **options).text
    return driver.layout(driver.Source("imported.obj", text))


@pytest.mark.parametrize("seed", range(TESTED))
def test_random_settings(seed: int, tmp_path: Path) -> None:
    """Value and gradient of an optimizer step, over one, two or four micro-batches."""
    trl_runs.compare(seed, tmp_path)


@pytest.mark.parametrize("seed", range(TESTED))
def test_random_settings_of_dpo(seed: int, tmp_path: Path) -> None:
    """An optimizer step of `trainer.train()`, over one, two or four micro-batches."""
    dpo_runs.compare(seed, tmp_path)


def test_random_settings_of_dpo_take_every_choice() -> None:
    """The configurations of `make proofs` do, and those that are tested take every loss."""
    every = [dpo_runs.drawn(seed) for seed in range(300)]
    losses = {loss for settings in every for loss in settings["loss_type"]}
    assert losses == {*LOSSES} - {"aot", "aot_unpaired"}
    divergences = {settings.get("f_divergence_type") for settings in every}
    assert divergences == {None, *dpo_runs.DIVERGENCES}
    fixed = {name for name in known.DPO if len({str(s.get(name)) for s in every}) == 1}
    assert fixed == {
        # Named as outside the formula.
        "ref_model_mixup_alpha", "ref_model_sync_steps", "router_aux_loss_coef", "sync_ref_model",
    }  # fmt: skip


@pytest.mark.slow
def test_settings_on_two_processes(tmp_path: Path) -> None:
    """The mean of their gradients is that of the objective that is imported for two."""
    run_two(trl_rank_runs.work, tmp_path)


def test_random_settings_take_every_choice() -> None:
    """The 300 configurations of `make proofs` take each choice at least once."""
    every = [trl_runs.drawn(seed) for seed in range(300)]
    taken = {name: {str(s.get(name)) for s in every} for name in {*known.GRPO, *known.RLOO}}
    for name, choices in [
        ("loss_type", {"dapo", "grpo", "bnpo", "dr_grpo", "luspo", "cispo", "sapo", "vespo"}),
        ("scale_rewards", {"group", "batch", "none", "True", "False"}),
        (
            "vllm_importance_sampling_mode",
            {"sequence_mask", "sequence_truncate", "token_mask", "token_truncate"},
        ),
    ]:
        assert choices <= taken[name]
    fixed = {name for name, values in taken.items() if len(values) == 1}
    assert fixed == {
        # Named as outside the formula, or said in other words by the settings that vary.
        "generation_batch_size", "max_completion_length", "min_p", "num_generations",
        "ref_model_mixup_alpha", "ref_model_sync_steps", "repetition_penalty",
        "reward_model_name_or_path", "router_aux_loss_coef", "steps_per_generation",
        "sync_ref_model", "top_k", "top_p", "use_adaptive_entropy",
        "vllm_importance_sampling_cap",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "script"),
    [
        ("grpo", GRPOConfig, (GRPOScriptArguments,)),
        ("rloo", RLOOConfig, (GRPOScriptArguments,)),
        ("dpo", DPOConfig, (ScriptArguments, DatasetMixtureConfig)),
    ],
)
def test_every_setting_is_known(kind: str, config: type, script: tuple[type, ...]) -> None:
    """With TRL's own defaults, of those that have a say."""
    settings = known.KNOWN[kind]
    theirs: dict[str, Any] = {}
    for part in (ModelConfig, *script, config):
        theirs |= {field.name: field.default for field in fields(part)}
    assert {*theirs} == {*settings, *known.OTHERS[kind]}
    assert not {*settings} & known.OTHERS[kind]
    for name, default in settings.items():
        assert theirs[name] is MISSING or theirs[name] == default, name


def test_the_installed_loss_is_the_one_that_was_read() -> None:
    root = Path(trl.__file__).parents[1]
    for file, digest in known.DIGESTS.items():
        assert versions.digest((root / file).read_text(), known.FUNCTIONS) == digest


def test_a_different_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a remark if the loss is the same, and an error if it is not."""
    text = "loss_type: grpo\n"
    monkeypatch.setattr(known, "VERSION", "1.15.0")
    remark = "trl 1.16.0 is installed, and its loss is that of 1.15.0"
    assert f"# {remark}.\n" in imported(tmp_path, text)
    monkeypatch.setitem(known.DIGESTS, "trl/trainer/grpo_trainer.py", "0")
    with pytest.raises(ObjectiveError, match=r"trl 1\.16\.0 is installed, whose loss was not read"):
        imported(tmp_path, text)


def test_a_config_in_python(tmp_path: Path) -> None:
    settings = {"loss_type": "dr_grpo", "beta": 0.1, "scale_rewards": False}
    config = GRPOConfig(str(tmp_path), bf16=False, use_cpu=True, **settings)
    text = frameworks.from_config(config).text
    from_python = driver.layout(driver.Source("config", text)).split("objective ")[1]
    lines = "".join(f"{name}: {x}\n" for name, x in settings.items())
    from_file = imported(tmp_path, lines, "trl_grpo.yaml").split("objective ")[1]
    assert from_python == from_file
    assert "mean[j != i]" in frameworks.from_config(RLOOConfig(str(tmp_path), use_cpu=True)).text
    assert "logsigmoid" in frameworks.from_config(DPOConfig(str(tmp_path), use_cpu=True)).text


def test_a_folder_does_not_choose_the_trainer(tmp_path: Path) -> None:
    folder = tmp_path / "rloo"
    folder.mkdir()
    assert "computes for GRPO under" in imported(folder, "beta: 0.1\n")
    assert "computes for RLOO under" in imported(folder, "beta: 0.1\n", "my_rloo.yaml")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("beta: 0.2\n", "my_dpo.yaml"),
        ("loss_type: hinge\n", "run.yaml"),
        ("loss_type: [sigmoid, sft]\n", "run.yaml"),
        ("ld_alpha: 0.5\n", "run.yaml"),
    ],
)
def test_a_configuration_of_dpo_is_recognised(text: str, name: str, tmp_path: Path) -> None:
    assert "computes for DPO under" in imported(tmp_path, text, name)


def test_what_is_outside_the_formula(tmp_path: Path) -> None:
    text = imported(
        tmp_path,
        "reward_funcs: [accuracy_reward]\nnum_iterations: 2\nsteps_per_generation: 4\n"
        "gradient_accumulation_steps: 2\nsync_ref_model: true\nmin_p: 0.1\nbeta: 0.1\n",
    )
    outside = re.findall(r"^# Not in the formula: (.*)\.$", text, re.MULTILINE)
    assert len(outside) == 7
    for phrase in ("serves 4 optimizer steps, each 2 times", "every 512 optimizer steps", "min_p"):
        assert phrase in " ".join(outside)
    assert "sample from mu" in text  # min_p changes the sampler's distribution


def test_names_of_reward_functions_are_free(tmp_path: Path) -> None:
    text = imported(tmp_path, "reward_funcs: [my.rewards.A, 2x, my.rewards.good]\nbeta: 0.1\n")
    objective = driver.compile_source(driver.Source("imported.obj", text))
    rewards = [name for name in objective.columns if "reward" in name or name in ("x_2x", "good")]
    assert sorted(rewards) == ["A_reward", "good", "x_2x"]


MISTAKES = {
    "a misspelled setting": "loss_typ: dapo\n",
    "a choice that there is not": "loss_type: dpao\n",
    "a number that is none": "beta: much\nepsilon: [0.2]\nreward_weights: 1\n",
    "groups that are cut": "num_generations: 3\n",
    "weights and functions": "reward_funcs: [a, b]\nreward_weights: [1]\n",
    "a quantile of micro-batches": "top_entropy_quantile: 0.2\ngradient_accumulation_steps: 4\n",
    "a coefficient that is steered": "use_adaptive_entropy: true\n",
    "both sizes of a rollout": "generation_batch_size: 16\nsteps_per_generation: 2\n",
    "a loss that sorts": "loss_type: [sigmoid, aot]\n",
    "a loss that there is not": "loss_type: sigmod\nf_divergence_type: js_divergence\n",
    "a divergence of other losses": "loss_type: bco_pair\nf_divergence_type: forward_kl\n",
    "no label smoothing": "loss_type: [exo_pair]\n",
    "too much of it": "loss_type: robust\nlabel_smoothing: 0.5\n",
    "losses and weights": "loss_type: [sigmoid, sft]\nloss_weights: [1]\n",
    "what TRL fails to weight": "loss_type: [hinge, sigmoid]\nuse_weighting: true\n",
    "a divisor of 0": "loss_type: ipo\nbeta: 0\n",
    "no bound": "use_vllm: true\nvllm_importance_sampling_mode: token_truncate\n"
    "vllm_importance_sampling_clip_max: null\n",
    "set twice": "beta: 0.1\nepsilon: 0.2\nbeta: 0.2\n",
    "not YAML": "a: b\n  c: [\n",
    "not a mapping": "- beta\n",
}


def test_mistakes(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    golden("frameworks/trl_mistakes.txt", errors_of(MISTAKES, imported, tmp_path))


def test_imported_objectives(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    """As they are printed."""
    long = """\
model_name_or_path: Qwen/Qwen3-0.6B
reward_funcs: [accuracy_reward, think_format_reward]
reward_weights: [1.0, 0.2]
loss_type: bnpo
beta: 0.04
epsilon_high: 0.28
gradient_accumulation_steps: 4
use_vllm: true
mask_truncated_completions: true
entropy_coef: 0.001
learning_rate: 1e-6
"""
    texts = [
        imported(tmp_path, "learning_rate: 1e-6\n", "defaults.yaml"),
        imported(tmp_path, long, "long.yaml", processes=2),
        imported(tmp_path, "beta: 0.05\nreward_clip_range: [-1, 1]\n", "rloo.yaml"),
        imported(tmp_path, "beta: 0.5\nlabel_smoothing: 0.1\n", "dpo.yaml"),
        imported(
            tmp_path,
            "loss_type: [robust, ipo, sft]\nloss_weights: [0.8, 0.2, 1.0]\nld_alpha: 0.5\n"
            "label_smoothing: 0.1\nf_divergence_type: js_divergence\nmax_length: null\n"
            "gradient_accumulation_steps: 2\n",
            "mixed.yaml",
        ),
    ]
    golden("frameworks/trl.obj", "\n".join(texts).replace(f"{tmp_path}/", ""))
