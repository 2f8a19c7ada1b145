"""The optimizer step gives the same weights however it is split; columns have the right values."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    Qwen3Config,
)

import objdsl
from helpers.random_batch import batch
from objdsl.ir.declarations import Hidden
from objdsl.runtime.data.tasks import load_task
from objdsl.runtime.engines.batch import Batch
from objdsl.runtime.engines.layout import can_share, layout_of
from objdsl.runtime.engines.models import ends_of, load_model, recompute_layers
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.learning import needs
from objdsl.runtime.learning.learner import Learner
from objdsl.runtime.learning.monitors import ENTROPY
from objdsl.runtime.learning.needs import compiles, needs_of
from objdsl.runtime.learning.optimizer import TrainingError, learning_rate
from objdsl.runtime.settings.config import ConfigError, LearnerSection, ModelSection, TaskSection


def model(layers: int = 2, **others: Any) -> Policy:
    task = load_task(TaskSection(), seed=0)
    section = ModelSection(layers=layers, width=16, heads=2, dtype="float64")
    loaded, _ = load_model(section, task, seed=0)
    return Policy(loaded, **others)


def double() -> Policy:
    """A model that computes in float64 throughout; the norms of Qwen3 compute in float32."""
    shape = GPT2Config(
        vocab_size=15, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    return Policy(GPT2LMHeadModel(shape).to(torch.float64).eval())


def trained(
    text: str, section: LearnerSection, policy: Policy, data: Batch, steps: int = 2
) -> tuple[list[Tensor], list[dict[str, float]]]:
    """Weights and metrics after some steps of the objective, from a copy of the policy."""
    objective = objdsl.load(text) if text.isidentifier() else objdsl.loads(text)
    policy = copy.deepcopy(policy)
    frozen = {"ref": double()} if "ref" in needs_of(objective).policies else {}
    learner = Learner(policy, objective, section, steps=10, frozen=frozen)
    learned = [learner.learn(data, step) for step in range(steps)]
    weights = [p.detach().clone() for p in policy.parameters()]
    return weights, [result.metrics | result.reports for result in learned]


def assert_same(a: Sequence[Tensor], b: Sequence[Tensor], tolerance: float = 1e-12) -> None:
    for x, y in zip(a, b, strict=True):
        assert float((x - y).detach().abs().max()) <= tolerance


COUPLED = """
objective coupled
A = reward - mean[i] reward
report spread = pstd[p,i,t] log(pi / old)
maximize mean[p,i] mean[t] (A * log(pi)) - (mean[p,i,t] log(pi) + 2) ^ 2
"""


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "ppo", "clip_cov", "rloo", COUPLED])
@pytest.mark.parametrize("size", [1, 5])
def test_micro_batches_change_nothing(name: str, size: int) -> None:
    # Adam turns a gradient of rounding errors into a step of size `lr`, hence the large epsilon.
    section = LearnerSection(lr=1e-2, epsilon=1e-3)
    whole, learned = trained(name, section, double(), batch())
    cut, learned_cut = trained(
        name, section.model_copy(update={"micro_batch": size}), double(), batch()
    )
    assert_same(whole, cut)
    assert learned[0].keys() == learned_cut[0].keys()
    for expected, actual in zip(learned, learned_cut, strict=True):
        assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "ppo", "clip_cov", "kl_exact", COUPLED])
def test_without_logits_the_numbers_are_the_same(name: str, kept: bool, size: int | None) -> None:
    if kept and name == "kl_exact":
        pytest.skip("the divergence from a reference without the dropped tokens is inf")
    plain = LearnerSection(lr=1e-2, epsilon=1e-3, micro_batch=size, head="logits")
    policy = replace(double(), temperature=0.7)
    by_logits, learned = trained(name, plain, policy, batch(kept))
    fused = plain.model_copy(update={"head": "fused"})
    without, learned_fused = trained(name, fused, policy, batch(kept))
    assert_same(by_logits, without, 1e-11)
    assert learned[0].keys() == learned_fused[0].keys()
    for expected, actual in zip(learned, learned_fused, strict=True):
        assert actual == pytest.approx(expected, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("name", ["grpo", "gspo", "clip_cov"])
def test_adapters_without_logits(name: str) -> None:
    """With LoRA the head has no gradient; that of the adapters is the same."""
    peft = pytest.importorskip("peft")
    adapted = peft.LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False)
    torch.manual_seed(1)
    policy = Policy(peft.get_peft_model(double().model, adapted).to(torch.float64).eval())
    plain = LearnerSection(lr=1e-2, epsilon=1e-3, head="logits")
    by_logits, _ = trained(name, plain, policy, batch())
    fused = plain.model_copy(update={"head": "fused"})
    without, _ = trained(name, fused, policy, batch())
    assert len(without) == 4  # two layers, two matrices each
    assert_same(by_logits, without, 1e-11)
    before = [p.detach() for p in policy.parameters()]
    assert any(float((x - y).abs().max()) > 1e-3 for x, y in zip(before, without, strict=True))


def test_a_head_in_parts_is_as_precise_as_float32() -> None:
    """States are rounded to bfloat16, by up to 1/500, but the head is not: its versions in two and
    three parts are nearer to each other than to a step in float32."""
    policy = replace(double(), temperature=0.7)
    policy = replace(policy, model=policy.model.float())
    section = LearnerSection(lr=1e-2, epsilon=1e-3, head="fused")
    weights = {}
    for precision in ("inputs", "bf16x2", "bf16x3"):
        chosen = section.model_copy(update={"precision": precision})
        weights[precision], _ = trained("dapo", chosen, policy, batch())
    assert_same(weights["bf16x2"], weights["bf16x3"], 1e-4)
    assert_same(weights["inputs"], weights["bf16x3"], 3e-3)
    with pytest.raises(AssertionError):
        assert_same(weights["inputs"], weights["bf16x3"], 1e-5)


def test_a_precision_that_does_not_apply_is_refused() -> None:
    for head, why in (("logits", "the head is not fused"), ("fused", "head in float32")):
        section = LearnerSection.model_validate({"head": head, "precision": "bf16x2"})
        with pytest.raises(ConfigError, match=rf"learner.precision is `bf16x2`, but .*{why}"):
            trained("grpo", section, double(), batch())


def test_a_head_that_cannot_be_fused_is_refused() -> None:
    goal = "maximize mean[p,i] (reward * sum[t] log(early))\n"
    text = f"objective inner\npolicy early = pi at layer 1\n{goal}"
    with pytest.raises(ConfigError, match=r"learner.head is `fused`, but inner reads"):
        trained(text, LearnerSection(head="fused"), model(), batch())
    trained(text, LearnerSection(head="auto"), model(), batch())


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_several_optimizer_steps_in_micro_batches(name: str) -> None:
    section = LearnerSection(lr=1e-2, epsilon=1e-3, minibatches=2, epochs=2)
    whole, learned = trained(name, section, double(), batch())
    cut, _ = trained(name, section.model_copy(update={"micro_batch": 2}), double(), batch())
    assert_same(whole, cut)
    # After the first optimizer step the policy is no longer the one that sampled.
    assert learned[0]["objective"] != 0
    once, _ = trained(name, LearnerSection(lr=1e-2, epsilon=1e-3), double(), batch())
    assert any(float((x - y).abs().max()) > 1e-4 for x, y in zip(whole, once, strict=True))


def test_one_forward_pass_gives_the_numbers_of_two() -> None:
    """`old` is read off the pass that trains; a separate pass gives the same numbers."""
    data = batch()
    policy = model()
    objective = objdsl.load("grpo")
    learner = Learner(policy, objective, LearnerSection(), steps=10, frozen={"ref": model()})
    measured = learner.measure(data)
    trained = policy.columns(data, ("log_pi", "entropy"))
    assert torch.equal(measured["log_old"], trained["log_pi"].detach())
    assert torch.equal(measured[ENTROPY], trained["entropy"])


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("masked", [False, True])
def test_columns_are_those_of_the_model(shares: bool, attention: str, masked: bool) -> None:
    policy = replace(double(), temperature=0.7)
    policy.model.set_attn_implementation(attention)
    policy.shares_prompts = shares
    data = batch(masked=masked)
    assert (layout_of(data, torch.float64, shares).attention is not None) == shares
    wanted = ("log_pi", "log_pi_dist", "entropy")
    columns = policy.columns(data, wanted)
    with torch.no_grad():
        fused = replace(policy, fused=True)
        fused.shares_prompts = shares
        without_logits = fused.columns(data, ("log_pi", "entropy"))
    for name, values in without_logits.items():
        assert torch.allclose(values, columns[name], atol=1e-12)
    for row in range(len(data)):
        start, end = int(data.start[row]), int(data.start[row] + data.length[row])
        tokens = data.tokens[row, :end]
        places = data.place[row][data.mask[row]]
        length = len(places)
        with torch.no_grad():
            logits = policy.model(tokens[None]).logits[0, start - 1 + places] / 0.7
        logs = logits.log_softmax(-1)
        assert torch.allclose(columns["log_pi_dist"][row, :length], logs, atol=1e-12)
        chosen = logs.gather(-1, tokens[start + places, None])[:, 0]
        assert torch.allclose(columns["log_pi"][row, :length], chosen, atol=1e-12)
        entropy = -(logs.exp() * logs).sum(-1)
        assert torch.allclose(columns["entropy"][row, :length], entropy, atol=1e-12)
        for name in wanted:
            assert not columns[name][row, length:].any()


def test_recomputed_layers_change_nothing_and_keep_dropout_off() -> None:
    shape = GPT2Config(
        vocab_size=15, n_embd=16, n_layer=2, n_head=2, n_positions=32,
        resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    plain = Policy(GPT2LMHeadModel(shape).to(torch.float64).eval())
    recomputing = copy.deepcopy(plain)
    recompute_layers(recomputing.model)
    section = LearnerSection(lr=1e-2, epsilon=1e-3)
    assert_same(
        trained("grpo", section, plain, batch())[0],
        trained("grpo", section, recomputing, batch())[0],
    )
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    for block in recomputing.model.transformer.h:
        block.mlp.register_forward_pre_hook(count)
    with torch.no_grad():
        recomputing.columns(batch(), ("log_pi",))
    assert passes == 2  # one of each layer
    recomputing.columns(batch(), ("log_pi",))["log_pi"].sum().backward()
    assert passes == 2 + 2 * 2
    with pytest.raises(ConfigError, match="Linear cannot do it layer by layer"):
        recompute_layers(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_a_head_that_scales_its_logits_is_not_fused() -> None:
    shape = GraniteConfig(
        vocab_size=15, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, logits_scaling=4.0, initializer_range=0.3,
    )  # fmt: skip
    policy = Policy(GraniteForCausalLM(shape).eval())
    assert policy.head is None
    shape.logits_scaling = 1.0
    assert policy.head is policy.model.lm_head


def test_tokens_that_end_a_response() -> None:
    tokenizer = SimpleNamespace(eos_token_id=1)
    ends = [
        ends_of(SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=named)), tokenizer)  # type: ignore[arg-type]
        for named in (None, 1, 4, [4, 1, 7])
    ]
    assert ends == [(1,), (1,), (1, 4), (1, 4, 7)]


def test_the_kept_tokens_are_the_distribution() -> None:
    policy, data = model(), batch(kept=True)
    assert data.kept is not None
    columns = policy.columns(data, ("log_pi", "log_pi_dist", "entropy"))
    free = policy.columns(replace(data, kept=None), ("log_pi_dist",))["log_pi_dist"].detach()
    for row, step in data.mask.nonzero().tolist():
        kept = data.kept[row, step]
        logs = free[row, step][kept]
        logs = logs - logs.logsumexp(0)
        assert torch.allclose(columns["log_pi_dist"][row, step][kept], logs, atol=1e-12)
        entropy = float(columns["entropy"][row, step])
        assert entropy == pytest.approx(-float((logs.exp() * logs).sum()))
    columns["log_pi"].sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in policy.parameters() if p.grad is not None)


def test_shared_prompts_have_the_gradient_of_their_responses() -> None:
    """Also where responses to several prompts are mixed, and some have a single token."""
    data = batch(groups=3, group=4)
    data = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))]
    wanted = ("log_pi", "log_pi_dist", "entropy")
    gradients = []
    for shares in (True, False):
        policy = double()
        policy.shares_prompts = shares
        columns = policy.columns(data, wanted)
        weights = torch.arange(columns["log_pi"].numel(), dtype=torch.float64).view_as(
            columns["log_pi"]
        )
        (columns["log_pi"] * weights.sin()).sum().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    assert_same(*gradients)


def test_models_that_can_share_prompts() -> None:
    def with_config(config: Any) -> Any:
        return SimpleNamespace(config=config)

    assert can_share(with_config(Qwen3Config(attn_implementation="sdpa")))
    assert not can_share(with_config(Qwen3Config(attn_implementation="flash_attention_2")))
    assert not can_share(with_config(MistralConfig(sliding_window=64, attn_implementation="sdpa")))
    mixed = Qwen3Config(
        num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"],
        use_sliding_window=True, sliding_window=64, attn_implementation="sdpa",
    )  # fmt: skip
    assert not can_share(with_config(mixed))


def test_internal_policies() -> None:
    text = """
    objective inside
    policy inner = pi at layer 1
    policy inner_old = old at layer 1
    A = reward - mean[i] reward
    maximize mean[p,i,t] (A * inner / inner_old)
    """
    policy, data = model(layers=2), batch()
    objective = objdsl.loads(text)
    learner = Learner(policy, objective, LearnerSection(), steps=10, frozen={})
    columns = policy.columns(data, ("log_inner", "log_pi"))
    assert not torch.allclose(columns["log_inner"], columns["log_pi"])
    shallow = copy.deepcopy(policy.model)
    shallow.model.layers = shallow.model.layers[:1]
    alone = Policy(shallow).columns(data, ("log_pi",))["log_pi"]
    assert torch.allclose(columns["log_inner"], alone, atol=1e-12)
    before = [p.detach().clone() for p in policy.model.model.layers[1].parameters()]
    learner.learn(data, 0)
    # No gradient reaches the layers above.
    assert_same(before, list(policy.model.model.layers[1].parameters()), 0.0)
    deep = Policy(policy.model, layers={"inner": Hidden("pi", 5, norm=True)})
    with pytest.raises(ConfigError, match="reads layer 5, but the model has 2"):
        deep.columns(data, ("log_inner",))


@pytest.mark.parametrize("norm", [True, False])
def test_a_layer_is_a_parameter_and_has_a_norm_or_none(norm: bool) -> None:
    text = f"""
    param n = 1 in [1, inf)
    policy inner = pi at layer n{"" if norm else " without norm"}
    policy inner_old = old at layer n{"" if norm else " without norm"}
    maximize mean[p,i,t] (reward * inner / inner_old)
    """
    policy, data = model(layers=3), batch()
    for n in (1, 2):
        objective = objdsl.loads(text, n=n)
        learner = Learner(policy, objective, LearnerSection(), steps=10, frozen={})
        actual = policy.columns(data, ("log_inner_dist",))["log_inner_dist"]
        with torch.no_grad():
            states = policy.model.model(input_ids=data.tokens, output_hidden_states=True)
            state = states.hidden_states[n]
            logits = policy.model.lm_head(policy.model.model.norm(state) if norm else state)
            logs = logits.log_softmax(-1)
        for row, (start, length) in enumerate(zip(data.start, data.length, strict=True)):
            expected = logs[row, start - 1 : start - 1 + length]
            torch.testing.assert_close(actual[row, :length], expected)
        before = [p.detach().clone() for p in policy.model.model.layers.parameters()]
        learner.learn(data, 0)
        each = len(before) // 3
        after = list(policy.model.model.layers.parameters())
        assert_same(before[n * each :], after[n * each :], 0.0)
        moved = zip(before[: n * each], after[: n * each], strict=True)
        assert any(not torch.equal(x, y) for x, y in moved)

    with pytest.raises(ConfigError, match=r"off layer 4, and the model has 3: .* set params\.n"):
        Learner(policy, objdsl.loads(text, n=4), LearnerSection(), steps=1, frozen={})
    with pytest.raises(ValueError, match=r"n = 1\.5 is no layer"):
        objdsl.loads(text, n=1.5)
    if not norm:
        with pytest.raises(ConfigError, match="layer 3 without norm: models give the last state"):
            Learner(policy, objdsl.loads(text, n=3), LearnerSection(), steps=1, frozen={})


def test_the_source_of_each_column() -> None:
    ppo = needs_of(objdsl.load("ppo"))
    assert set(ppo.trained) == {"log_pi", "value"}
    assert ppo.measured == {"log_old": "log_pi", "value_old": "value"}
    assert ppo.frozen == {"log_ref": ("ref", "log_pi")}
    assert needs_of(objdsl.load("remax")).given == ("greedy",)
    assert needs_of(objdsl.load("clip_cov")).noise
    with pytest.raises(ConfigError, match=r"set policies\.teacher"):
        Learner(
            model(), objdsl.load("on_policy_distillation"), LearnerSection(), steps=1, frozen={}
        )


def test_no_step_with_a_gradient_that_is_not_finite() -> None:
    objective = objdsl.loads("objective steep\nmaximize mean[p,i,t] (1e300 * exp(1e3 * pi / old))")
    policy = model()
    before = [p.detach().clone() for p in policy.parameters()]
    learner = Learner(policy, objective, LearnerSection(max_skipped=0), steps=1, frozen={})
    with pytest.raises(TrainingError, match="the value of steep is inf; 1 optimizer steps within"):
        learner.learn(batch(), 0)
    assert_same(before, policy.parameters(), 0.0)


def test_the_learning_rate() -> None:
    section = LearnerSection(lr=1.0, warmup=3, final_lr=0.1, schedule="linear")
    rates = [learning_rate(section, step, 101) for step in range(101)]
    assert rates[:2] == pytest.approx([0.25, 0.5 * (1 - 0.009)])
    assert rates[-1] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.55)
    cosine = section.model_copy(update={"schedule": "cosine"})
    assert learning_rate(cosine, 50, 101) == pytest.approx(0.55)
    assert learning_rate(cosine, 100, 101) == pytest.approx(0.1)
    constant = section.model_copy(update={"schedule": "constant"})
    assert learning_rate(constant, 100, 101) == 1.0


def test_a_critic_does_not_train_the_policy() -> None:
    """Its own loss trains the critic, and nothing else."""
    text = (
        "objective lone\nA = reward - mean[i] reward\nmaximize mean[p,i] sum[t] (A * log(pi))\n"
        "minimize critic mean[p,i,t] (10 * ((V - reward) ^ 2))\n"
    )
    alone, _ = trained(text.partition("minimize")[0], LearnerSection(lr=1e-2), double(), batch())
    for head in ("logits", "fused"):
        for rate in (None, 0.5):
            section = LearnerSection.model_validate({"lr": 1e-2, "critic_lr": rate, "head": head})
            policy = double()
            weights, _ = trained(text, section, policy, batch())
            assert_same(weights[:-2], alone, 1e-9)
            # It began at 0.
            assert all(float(weight.abs().max()) > 1e-3 for weight in weights[-2:])


@pytest.mark.skipif(shutil.which("g++") is None, reason="TorchInductor needs a C++ compiler")
def test_a_compiled_objective_learns_the_same() -> None:
    policy, data = double(), batch()
    sections = [LearnerSection(micro_batch=3, compile=on) for on in (False, True)]
    before = counters["stats"]["unique_graphs"]
    (plain, _), (compiled, _) = (trained(COUPLED, x, policy, data) for x in sections)
    assert_same(plain, compiled)
    assert counters["stats"]["unique_graphs"] > before


def test_an_objective_is_compiled_where_that_is_earned_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, long = double(), 400_000_000
    tokens, entries = objdsl.load("grpo"), objdsl.load("kl_exact")
    auto, never, always = (LearnerSection(compile=x) for x in ("auto", False, True))
    monkeypatch.setattr(needs, "_no_compiler", lambda device: "")
    assert compiles(policy, tokens, False, auto, long)
    assert not compiles(policy, tokens, False, auto, long // 2)
    assert not compiles(policy, tokens, False, never, long)
    assert compiles(policy, tokens, False, always, 1)
    # An objective over the vocabulary takes longer, unless the head computes it.
    assert compiles(policy, entries, False, auto, long // policy.vocabulary)
    assert not compiles(policy, entries, True, auto, long // policy.vocabulary)
    monkeypatch.setattr(needs, "_no_compiler", lambda device: "there is no C++ compiler")
    assert not compiles(policy, tokens, False, auto, long)
    with pytest.raises(ConfigError, match=r"learner.compile is true, but there is no C\+\+"):
        compiles(policy, tokens, False, always, 1)
