"""TRL's own losses, called as installed, against objectives.

The trainers' methods run on a stand-in for `self` whose model returns the log-probabilities of a
random step; one test runs a whole GRPOTrainer on a tiny model. Where TRL departs from a paper, the
objective's text says how.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import objdsl
from helpers.gallery_steps import rows_of
from helpers.peer_losses import Data, assert_same, grouped

# TRL looks whether there is a vLLM, and would take seconds to import what no test here uses.
installed = pytest.importorskip("trl.import_utils")
installed.is_vllm_available = lambda min_version=None: False

grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer")
rloo_trainer = pytest.importorskip("trl.trainer.rloo_trainer")
dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer")
kto_trainer = pytest.importorskip("trl.trainer.kto_trainer")
cpo_trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer")
gmpo_trainer = pytest.importorskip("trl.experimental.gmpo.gmpo_trainer")
orpo_trainer = pytest.importorskip("trl.experimental.orpo.orpo_trainer")
a2po_trainer = pytest.importorskip("trl.experimental.a2po.a2po_trainer")
gkd_trainer = pytest.importorskip("trl.experimental.gkd.gkd_trainer")
server = pytest.importorskip("trl.experimental.server_distillation.server_distillation_trainer")

# What all of TRL's group advantages have: 1e-4.
A = "A = (reward - mean[i] reward) / (std[i] reward + 1e-4)\n"
CLIPPED = "surrogate(r, A, 1 - eps, 1 + eps)"


def standardised(d: Data) -> Tensor:
    groups = d["reward"].view(3, 4)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).flatten()


def stand_in(cls: type, log_pi: Tensor | None = None, **attributes: Any) -> Any:
    """An object with a trainer's methods and attributes, whose model returns `log_pi`."""
    accelerator = SimpleNamespace(
        num_processes=1,
        device=torch.device("cpu"),
        sync_gradients=True,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    defaults = {
        "accelerator": accelerator,
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "_metrics": {"train": defaultdict(list)},
        "_get_per_token_logps_and_entropies": lambda *_, **__: (log_pi, torch.zeros(1, 1), None),
    }
    trainer = cls.__new__(cls)
    trainer.__dict__.update({**defaults, **attributes})
    return trainer


def inputs(d: Data, **others: Any) -> dict[str, Any]:
    rows, width = d.mask.shape
    ids = torch.zeros(rows, width, dtype=torch.long)
    prompt = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1}
    return {
        **prompt,
        "completion_ids": ids,
        "completion_mask": d.mask.long(),
        "advantages": others.pop("advantages") if "advantages" in others else standardised(d),
        "old_per_token_logps": d["log_old"],
        "num_items_in_batch": d.mask.sum(),
        **others,
    }


def grpo_loss(d: Data, loss_type: str, **options: Any) -> Tensor:
    """`GRPOTrainer._compute_loss`, in one micro-batch that is the whole step."""
    data = options.pop("data", {})
    arguments = {
        "delta": None,
        "use_bias_correction_kl": True,
        "steps_per_generation": 1,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 2.5,
        "vespo_k_pos": 2.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_pos": 3.0,
        "vespo_lambda_neg": 2.0,
    }
    arguments.update({name: options.pop(name) for name in list(options) if name in arguments})
    attributes = {
        "loss_type": loss_type,
        "args": SimpleNamespace(**arguments),
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "importance_sampling_level": "token",
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        "max_completion_length": 9,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
        **options,
    }
    trainer = stand_in(grpo_trainer.GRPOTrainer, d["log_pi"], **attributes)
    return trainer._compute_loss(None, inputs(d, **data))


# --- GRPO and what TRL files under it ------------------------------------------------------------


def test_grpo_by_default() -> None:
    """`loss_type="dapo"`, and no KL: not GRPO's mean of response means."""
    d = grouped()
    assert_same(objdsl.load("frameworks/trl_grpo"), grpo_loss(d, "dapo"), d)


def test_grpo_by_default_with_vllm() -> None:
    """The weight between the engines is a product over the response, and a mask. Its formula is
    inside TRL's generation; this test calls the code that uses it."""
    d = grouped()
    W = ((d["log_old"] - d["log_mu"]) * d.mask).sum(-1, keepdim=True).exp()
    W = W.masked_fill(W > 1.2, 0.0)
    assert bool((W == 0).any()) and bool((W > 0).any())
    theirs = grpo_loss(d, "dapo", use_vllm=True, data={"importance_sampling_ratio": W})
    assert_same(objdsl.load("frameworks/trl_grpo_vllm", C=1.2), theirs, d)


def test_grpo_of_the_paper() -> None:
    """`loss_type="grpo"` with KL, if TRL is told not to weight the KL by the ratio."""
    d = grouped()
    reference = {"ref_per_token_logps": d["log_ref"]}
    theirs = grpo_loss(d, "grpo", beta=0.04, use_bias_correction_kl=False, data=reference)
    assert_same(objdsl.load("grpo"), theirs, d)


def test_the_kl_is_weighted_by_default() -> None:
    """`use_bias_correction_kl`: DeepSeek-V3.2's live ratio, inside GRPO."""
    d = grouped()
    theirs = grpo_loss(d, "grpo", beta=0.04, data={"ref_per_token_logps": d["log_ref"]})
    text = f"""
objective x from grpo
maximize mean[p] mean[i] mean[t] ({CLIPPED} - beta * r * k3(pi, ref))
"""
    assert_same(objdsl.loads(text), theirs, d)


def test_deepseek_v32() -> None:
    """Its three pieces together are the paper's objective, if `old` is what the engine returned."""
    d = grouped()
    rewards = d["reward"].view(3, 4)
    data = {
        "advantages": (rewards - rewards.mean(1, keepdim=True)).flatten(),
        "old_per_token_logps": d["log_mu"],
        "ref_per_token_logps": d["log_ref"],
    }
    theirs = grpo_loss(d, "grpo", beta=0.1, off_policy_mask_threshold=0.05, data=data)
    assert_same(objdsl.load("deepseek_v32", beta=0.1, delta=0.05), theirs, d)


def test_dr_grpo() -> None:
    """L is the maximum length of a completion; `scale_rewards` is a separate setting."""
    d = grouped()
    rewards = d["reward"].view(3, 4)
    data = {"advantages": (rewards - rewards.mean(1, keepdim=True)).flatten()}
    theirs = grpo_loss(d, "dr_grpo", data=data)
    assert_same(objdsl.load("dr_grpo", L=9), theirs, d)


def test_bnpo() -> None:
    """The tokens of the micro-batch, which are those of the step if it is a single micro-batch."""
    d = grouped()
    assert_same(objdsl.load("frameworks/trl_grpo"), grpo_loss(d, "bnpo"), d)


def test_bnpo_depends_on_the_micro_batches() -> None:
    """Split into two, the same step has a different loss, which no objective of whole steps has."""
    d = grouped()
    halves = []
    for rows in (slice(0, 4), slice(4, 12)):
        part = Data.__new__(Data)
        part.step, part.mask = d.step, d.mask[rows]
        part.columns = rows_of(d.columns, rows)
        cut = {"advantages": standardised(d)[rows]}
        halves.append(grpo_loss(part, "bnpo", current_gradient_accumulation_steps=2, data=cut))
    assert abs(float((sum(halves) - grpo_loss(d, "bnpo")).detach())) > 1e-3


def test_delta() -> None:
    """TRL's upper bound on the side that is not clipped holds for A > 0 too; where it is above
    1 + eps, that is the dual clip."""
    d = grouped()
    theirs = grpo_loss(d, "dapo", delta=1.3)
    text = f"objective x from dr_grpo\n{A}maximize mean[p,i,t] dual_clip({CLIPPED}, A, 1.3)\n"
    assert_same(objdsl.loads(text), theirs, d)


def test_gspo() -> None:
    """`importance_sampling_level="sequence"` with `loss_type="grpo"` is the paper's form."""
    d = grouped()
    options = {"epsilon_low": 0.05, "epsilon_high": 0.1}
    theirs = grpo_loss(d, "grpo", importance_sampling_level="sequence", **options)
    ours = objdsl.loads(f"objective x from gspo\n{A}", eps_low=0.05, eps_high=0.1)
    assert_same(ours, theirs, d)


def test_luspo() -> None:
    """Dr. GSPO with the std kept: the loss of a response counts once for each of its tokens."""
    d = grouped()
    options = {"epsilon_low": 0.05, "epsilon_high": 0.1}
    theirs = grpo_loss(d, "luspo", importance_sampling_level="sequence", **options)
    ours = objdsl.loads(f"objective x from dr_gspo\n{A}", eps_low=0.05, eps_high=0.1)
    assert_same(ours, theirs, d)


def test_cispo() -> None:
    """The bound is the ratio itself, not its distance from 1; token mean of the step, where the
    paper divides by the tokens of the group."""
    d = grouped()
    theirs = grpo_loss(d, "cispo", epsilon_high=1.15)
    text = f"""
objective x from cispo
{A}maximize mean[p,i,t] (sg(min(r, 1 + eps_high)) * A * log(pi))
"""
    assert_same(objdsl.loads(text, eps_high=0.15), theirs, d)


def test_sapo() -> None:
    d = grouped()
    assert_same(objdsl.loads(f"objective x from sapo\n{A}", tau_neg=2.5), grpo_loss(d, "sapo"), d)


def test_vespo() -> None:
    """A token mean, and log W clamped. W is pi / old times the engines' weight, which is 1 here."""
    d = grouped()
    text = f"""
objective x from vespo
{A}W = prod[t] (pi / old)
maximize mean[p,i,t] (phi * A * log(pi))
"""
    assert_same(objdsl.loads(text), grpo_loss(d, "vespo"), d)


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_gmpo(beta: float) -> None:
    d = grouped()
    trainer = stand_in(
        gmpo_trainer.GMPOTrainer,
        d["log_pi"],
        beta=beta,
        epsilon_low=0.2,
        epsilon_high=0.2,
        top_entropy_quantile=1.0,
        current_gradient_accumulation_steps=1,
    )
    theirs = trainer._compute_loss(None, inputs(d, ref_per_token_logps=d["log_ref"]))
    kl = f" - {beta} * mean[t] k3(pi, ref)" if beta else ""
    text = f"objective x from gmpo\n{A}maximize mean[p] mean[i] (A * exp(mean[t] c){kl})\n"
    assert_same(objdsl.loads(text, eps=0.2), theirs, d)


# --- RLOO ----------------------------------------------------------------------------------------


def test_rloo_by_default() -> None:
    """PPO's clip on the ratio of responses, where the paper has REINFORCE. The advantage is inside
    TRL's generation; the formula is repeated here."""
    d = grouped()
    kl = ((d["log_old"] - d["log_ref"]) * d.mask).sum(-1)
    R = (d["reward"] - 0.05 * kl).view(3, 4)
    advantages = (R - (R.sum(1, keepdim=True) - R) / 3).flatten()
    trainer = stand_in(rloo_trainer.RLOOTrainer, d["log_pi"], epsilon_low=0.2, epsilon_high=0.2)
    old = (d["log_old"] * d.mask).sum(-1)
    theirs = trainer._compute_loss(None, inputs(d, old_logps=old, advantages=advantages))
    assert_same(objdsl.load("frameworks/trl_rloo"), theirs, d)


def test_rloo_follows_the_paper_on_policy() -> None:
    """With one update per sample the ratio is 1, and the gradient is that of REINFORCE."""
    d = grouped()
    d.columns["log_old"] = d["log_pi"].detach().clone()
    R = d["reward"].view(3, 4)
    advantages = (R - (R.sum(1, keepdim=True) - R) / 3).flatten()
    trainer = stand_in(rloo_trainer.RLOOTrainer, d["log_pi"], epsilon_low=0.2, epsilon_high=0.2)
    old = (d["log_old"] * d.mask).sum(-1)
    theirs = trainer._compute_loss(None, inputs(d, old_logps=old, advantages=advantages))
    (gradient,) = torch.autograd.grad(theirs, d["log_pi"])
    objective = objdsl.load("rloo")
    step = objective.prepare(mask=d.mask, prompt=d.step.prompt, reward=d["reward"])
    _, weights, _ = objective.weights(d["log_pi"], step)
    torch.testing.assert_close(-weights["log_pi"], gradient)


# --- the whole trainers --------------------------------------------------------------------------

TOKENS = ["<pad>", "<eos>", "<unk>", *"0123456789+="]


def tiny_model() -> tuple[Any, Any]:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    ids = {token: i for i, token in enumerate(TOKENS)}
    characters = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=len(TOKENS), pad_token_id=0, eos_token_id=1, **size, **heads)
    )
    return model, PreTrainedTokenizerFast(tokenizer_object=characters, **special)


@pytest.mark.parametrize(
    ("kind", "entry"), [("GRPO", "frameworks/trl_grpo"), ("RLOO", "frameworks/trl_rloo")]
)
def test_whole_trainer(kind: str, entry: str, tmp_path: Path) -> None:
    """Generation, rewards, advantages and loss by TRL, on a model that has moved since it sampled;
    the gradients of its parameters are those of the objective. TRL's advantages are in float32,
    everything else in float64."""
    datasets = pytest.importorskip("datasets")
    module = grpo_trainer if kind == "GRPO" else rloo_trainer
    rewards: list[float] = []

    def reward(completions: list[str], **_: Any) -> list[float]:
        rewards.extend(("3" in text) + 0.25 * text.count("1") for text in completions)
        return rewards

    model, tokenizer = tiny_model()
    model.double()
    arguments = getattr(module, f"{kind}Config")(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=6,
        num_iterations=2,
        beta=0.0,
    )
    prompts = ["1+1=", "2+3="]
    trainer = getattr(module, f"{kind}Trainer")(
        model,
        reward,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    rows = [{"prompt": prompt} for prompt in prompts for _ in range(4)]
    step = trainer._generate_and_score_completions(rows)
    ids = torch.cat([step["prompt_ids"], step["completion_ids"]], 1)
    seen = torch.cat([step["prompt_mask"], step["completion_mask"]], 1)

    def log_probs() -> Tensor:
        scores = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, seen, step["completion_ids"].size(1)
        )
        return scores[0]

    old = log_probs().detach()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))

    theirs = trainer._compute_loss(trainer.model, step)
    theirs.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    objective = objdsl.load(entry)
    if "beta" in objective.params:
        objective = objective.with_params(beta=0.0)
    ours = objective(
        log_pi=log_probs(),
        log_old=old,
        log_ref=old,
        mask=step["completion_mask"].bool(),
        prompt=[0] * 4 + [1] * 4,
        reward=torch.tensor(rewards),
    )
    ours.loss.backward()
    assert len(set(rewards)) > 1
    # Advantages of both signs cancel in the loss: what it is exact to is a part of the largest.
    largest = float(step["advantages"].abs().max())
    torch.testing.assert_close(ours.loss, theirs, rtol=0, atol=1e-5 * largest)
    steepest = max(float(gradient.abs().max()) for gradient in gradients)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-5 * steepest)


# --- preferences ---------------------------------------------------------------------------------


class Model(torch.nn.Module):
    """Returns given log-probabilities, shifted as in TRL's fused head: one for each position but
    the first, 0 where there is no token of the response."""

    is_gradient_checkpointing = False

    def __init__(self, log_probs: Tensor) -> None:
        super().__init__()
        self.log_probs = log_probs

    def forward(self, *, input_ids: Tensor, **_: Any) -> Any:
        log_probs = self.log_probs[input_ids[:, 0]]
        nothing = torch.zeros_like(log_probs)
        return SimpleNamespace(
            log_probs=log_probs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


def preference_inputs(d: Data, rows: Tensor) -> dict[str, Tensor]:
    """Rows as `input_ids`: the first id is the number of the row, by which `Model` identifies
    it."""
    mask = torch.cat([torch.zeros(len(rows), 1, dtype=torch.bool), d.mask[rows]], 1).long()
    ids = rows[:, None].expand_as(mask).contiguous()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}


def pairs(seed: int = 11) -> tuple[Data, Tensor, Tensor]:
    """Six prompts with a chosen and a rejected response each, and the rows of both."""
    d = grouped(seed, groups=6, size=2)
    chosen = torch.tensor([1.0, 0.0] * 6, dtype=torch.float64)
    d.columns["chosen"] = chosen
    return d, torch.arange(0, 12, 2), torch.arange(1, 12, 2)


def masked(d: Data, name: str) -> Tensor:
    return torch.where(d.mask, d[name], 0.0)


@pytest.mark.parametrize(
    ("loss_type", "text"),
    [
        ("sigmoid", "objective x from dpo"),
        # The log ratio of a response is divided by its length, which the paper does not print.
        ("ipo", "objective x from ipo\nh = mean[t] log(pi / ref)"),
        # The pair's margin, of means over tokens.
        ("sigmoid_norm", "objective x from dpo\nh = mean[t] log(pi / ref)"),
    ],
)
def test_dpo_family(loss_type: str, text: str) -> None:
    d, chosen, rejected = pairs()
    rows = torch.cat([chosen, rejected])
    trainer = stand_in(
        dpo_trainer.DPOTrainer,
        model=Model(masked(d, "log_pi")),
        ref_model=Model(masked(d, "log_ref")),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        precompute_ref_logps=False,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=0.3,
        use_weighting=False,
        _total_train_tokens=0,
        _tp_size=1,
    )
    theirs = trainer._compute_loss(trainer.model, preference_inputs(d, rows), False)
    assert_same(objdsl.loads(text + "\n", beta=0.3), theirs, d)


def test_simpo() -> None:
    d, chosen, rejected = pairs()
    means = masked(d, "log_pi").sum(-1) / d.lengths
    trainer = stand_in(
        cpo_trainer.CPOTrainer,
        alpha=0.0,
        loss_type="simpo",
        simpo_gamma=0.5,
        beta=2.0,
        label_smoothing=0.0,
    )
    losses, _, _ = trainer.cpo_loss(means[chosen], means[rejected])
    assert_same(objdsl.load("simpo", beta=2.0, gamma=0.5), losses.mean(), d)


@pytest.mark.parametrize("entry", ["orpo", "cpo"])
def test_the_likelihood_beside_a_preference(entry: str) -> None:
    """The sum with the likelihood stands in TRL's training step, and is repeated here."""
    d, chosen, rejected = pairs()
    sums = masked(d, "log_pi").sum(-1)
    likelihood = sums[chosen].sum() / d.lengths[chosen].sum()
    if entry == "orpo":
        trainer = stand_in(orpo_trainer.ORPOTrainer, beta=0.3)
        means = sums / d.lengths
        preferred, *_ = trainer.odds_ratio_loss(means[chosen], means[rejected])
        theirs = -likelihood - preferred.mean()
    else:
        options = {"alpha": 0.0, "loss_type": "sigmoid", "label_smoothing": 0.0}
        trainer = stand_in(cpo_trainer.CPOTrainer, beta=0.3, **options)
        losses, _, _ = trainer.cpo_loss(sums[chosen], sums[rejected])
        theirs = losses.mean() - likelihood
    assert_same(objdsl.load(entry, beta=0.3), theirs, d, rel=1e-6 if entry == "orpo" else 1e-7)


def test_a_star_po() -> None:
    d = grouped()
    d.columns["v_star"] = d["v_star"].view(3, 4)[:, :1].expand(3, 4).flatten()
    sums = {name: masked(d, f"log_{name}").sum(-1) for name in ("pi", "ref")}
    trainer = stand_in(
        a2po_trainer.A2POTrainer,
        args=SimpleNamespace(beta2=0.2),
        _get_sequence_logps=lambda *_: sums["pi"],
    )
    batch: dict[str, Any] = dict.fromkeys(("input_ids", "attention_mask", "logits_to_keep"))
    batch |= {"ref_logps": sums["ref"], "rewards": d["reward"], "v_star": d["v_star"]}
    assert_same(objdsl.load("a_star_po", beta2=0.2), trainer.compute_loss(None, batch), d)


@pytest.mark.parametrize("entry", ["gkd", "top_k_distillation"])
def test_distillation_of_distributions(entry: str) -> None:
    d = grouped()
    logits, teacher = d["log_pi_dist"].clone().requires_grad_(), d["log_teacher_dist"]
    labels = torch.where(d.mask, 0, -100)
    if entry == "gkd":
        objective = objdsl.load(entry, beta=0.3)
        divergence = gkd_trainer.GKDTrainer.generalized_jsd_loss
        theirs = divergence(logits, teacher, labels, beta=0.3)
    else:
        objective = objdsl.load(entry, k=2)
        trainer = stand_in(server.ServerDistillationTrainer, loss_add_tail=True)
        best, places = teacher.topk(2)
        served = {"topk_logprobs": best, "topk_token_ids": places}
        log_pi = logits.log_softmax(-1)
        theirs = trainer._compute_server_forward_kl_loss(served, log_pi, labels)
    step = objective.prepare(mask=d.mask, prompt=d.step.prompt, log_teacher_dist=teacher)
    ours = objective(step=step, log_pi_dist=logits.log_softmax(-1)).loss
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    assert bool((gradients[0] != 0).any())
    torch.testing.assert_close(*gradients)


def test_kto() -> None:
    """The paper's loss is lambda minus this value; TRL's constant is the weight itself, which
    changes the value and no gradient. Rows 8 to 11 are the mismatched ones."""
    d = grouped()
    rows, strangers = torch.arange(8), torch.tensor([8, 9, 10, 11, 8, 9, 10, 11])
    wanted = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0])
    d.columns["desirable"] = torch.cat([wanted, torch.zeros(4)]).double()
    d.columns["mismatched"] = (torch.arange(12) >= 8).double()
    # A shift makes the estimate of the KL positive: below 0 it is clamped.
    d.columns["log_ref"] = d["log_ref"] - 0.2
    batch = {**preference_inputs(d, rows), "label": wanted.bool()}
    batch.update({f"KL_{name}": x for name, x in preference_inputs(d, strangers).items()})
    trainer = stand_in(
        kto_trainer.KTOTrainer,
        model=Model(masked(d, "log_pi")),
        ref_model=Model(masked(d, "log_ref")),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        precompute_ref_logps=False,
        calculate_KL=True,
        loss_type="kto",
        beta=0.5,
        desirable_weight=1.3,
        undesirable_weight=0.7,
        _total_train_tokens=0,
        _tp_size=1,
    )
    theirs = trainer._compute_loss(trainer.model, batch, False)
    constant = (1.3 * wanted + 0.7 * (1 - wanted)).double().mean()
    ours = objdsl.load("kto", beta=0.5, lambda_d=1.3, lambda_u=0.7)
    assert trainer._metrics["train"]["kl"][0] > 0
    assert_same(ours, theirs - constant, d, rel=1e-6)
