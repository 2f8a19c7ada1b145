"""What TRL computes under a configuration of `trl grpo` or `trl rloo`, as an objective.

Read in TRL 1.16.0: `GRPOTrainer._compute_loss` and `_generate_and_score_completions`, and the same
of `RLOOTrainer`. tests/frameworks/test_trl.py runs those trainers on random settings, and compares
value and gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from objdsl.frameworks.settings import Setting, Settings
from objdsl.frozen import dataclass
from objdsl.source import Source
from objdsl.spelling import identifier

VERSION = "1.16.0"
FUNCTIONS = (
    "_compute_loss", "_generate_and_score_completions", "get_gamma_weights",
    "get_high_entropy_mask", "get_off_policy_mask",
)  # fmt: skip
DIGESTS = {
    "trl/trainer/grpo_trainer.py": "1b1f4fd5653f80e8",
    "trl/trainer/rloo_trainer.py": "c53f909394c1e7d5",
}
"""What `versions.digest` gives for those functions of the version that was read."""

# What GRPOConfig and RLOOConfig share about the objective and the sampling, with the defaults.
_SHARED: dict[str, Any] = {
    "beta": 0.0,
    "epsilon": 0.2,
    "epsilon_high": None,
    "generation_batch_size": None,
    "gradient_accumulation_steps": 1,
    "mask_truncated_completions": False,
    "max_completion_length": 512,
    "min_p": None,
    "num_generations": 8,
    "num_iterations": 1,
    "per_device_train_batch_size": 8,
    "ref_model_mixup_alpha": 0.6,
    "ref_model_sync_steps": 512,
    "repetition_penalty": 1.0,
    "reward_funcs": None,
    "reward_model_name_or_path": None,
    "reward_weights": None,
    "router_aux_loss_coef": None,
    "steps_per_generation": None,
    "sync_ref_model": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "use_vllm": False,
}

GRPO: dict[str, Any] = {
    **_SHARED,
    "delta": None,
    "entropy_coef": 0.0,
    "importance_sampling_level": "token",
    "loss_type": "dapo",
    "multi_objective_aggregation": "sum_then_normalize",
    "off_policy_mask_threshold": None,
    "sapo_temperature_neg": 1.05,
    "sapo_temperature_pos": 1.0,
    "scale_rewards": "group",
    "top_entropy_quantile": 1.0,
    "use_adaptive_entropy": False,
    "use_bias_correction_kl": True,
    "vespo_k_neg": 3.0,
    "vespo_k_pos": 2.0,
    "vespo_lambda_neg": 2.0,
    "vespo_lambda_pos": 3.0,
    "vllm_importance_sampling_cap": None,
    "vllm_importance_sampling_clip_max": 3.0,
    "vllm_importance_sampling_clip_min": None,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "sequence_mask",
}
"""The settings of GRPOConfig, and of the script, with a say in the objective or the sampling."""

RLOO: dict[str, Any] = {
    **_SHARED,
    "beta": 0.05,
    "normalize_advantages": False,
    "num_generations": 2,
    "reward_clip_range": None,
}
"""The same of RLOOConfig."""

# Settings that do not enter the formula: the optimizer, the model, the data, logging, and engines.
_TRAINING = """
    accelerator_config adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size
    average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm do_eval
    do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay
    eval_do_concat_batches eval_on_start eval_steps eval_strategy eval_use_gather_object fp16
    fp16_full_eval fsdp fsdp_config full_determinism gradient_checkpointing
    gradient_checkpointing_kwargs greater_is_better hub_always_push hub_model_id hub_private_repo
    hub_revision hub_strategy hub_token ignore_data_skip include_for_metrics
    include_num_input_tokens_seen label_names label_smoothing_factor learning_rate
    length_column_name liger_kernel_config load_best_model_at_end local_rank log_level
    log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter logging_steps
    logging_strategy lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps
    metric_for_best_model neftune_noise_alpha num_train_epochs optim optim_args
    optim_target_modules output_dir parallelism_config per_device_eval_batch_size
    prediction_loss_only project push_to_hub remove_unused_columns report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node
    save_only_model save_steps save_strategy save_total_limit seed skip_memory_metrics tf32
    torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy use_cache
    use_cpu use_liger_kernel warmup_steps weight_decay
""".split()
_TRAINER = """
    cache_implementation chat_template_kwargs disable_dropout ds3_gather_for_generation
    generation_kwargs log_completions log_multimodal log_unique_prompts model_init_kwargs
    num_completions_to_print
    num_generations_eval pad_to_multiple_of shuffle_dataset
    transformers_continuous_batching_config trust_remote_code use_transformers_continuous_batching
    use_transformers_paged vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_group_port
    vllm_max_model_length vllm_mode vllm_model_impl vllm_server_base_url vllm_server_host
    vllm_server_port vllm_server_timeout vllm_structured_outputs_regex vllm_tensor_parallel_size
""".split()
_GRPO_ALONE = """
    cast_lm_head_to_fp32 entropy_coef_delta entropy_coef_max
    entropy_coef_min entropy_target log_completions_hub_repo max_tool_calling_iterations
""".split()
_SCRIPT = """
    attn_implementation bnb_4bit_quant_storage bnb_4bit_quant_type dataset_config dataset_name
    dataset_streaming dataset_test_split dataset_train_split dtype ignore_bias_buffers
    load_in_4bit load_in_8bit lora_alpha lora_dropout lora_modules_to_save lora_r
    lora_target_modules lora_target_parameters lora_task_type model_name_or_path model_revision
    use_bnb_nested_quant use_dora use_peft use_rslora
""".split()

OTHERS: dict[str, frozenset[str]] = {
    "grpo": frozenset([*_TRAINING, *_TRAINER, *_GRPO_ALONE, *_SCRIPT]),
    "rloo": frozenset([*_TRAINING, *_TRAINER, *_SCRIPT]),
}
"""All other settings of each trainer."""

_LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo", "luspo", "cispo", "sapo", "vespo")
_SMALLEST = 1e-8  # of VESPO's weights


@dataclass(frozen=True)
class Imported:
    """What a configuration computes.

    Attributes:
        text: an objective in the language.
        outside: what the configuration does besides, a sentence each.
    """

    text: str
    outside: tuple[str, ...]


def objective(
    source: Source, values: Mapping[str, Setting], name: str, processes: int = 1
) -> Imported:
    """The objective that a configuration of TRL's trainer computes.

    It is a configuration of RLOO if it has a setting of RLOOConfig alone, or its file or its name
    says `rloo`; otherwise one of GRPO.

    Args:
        source: the file, for messages.
        values: the settings, by name.
        name: of the objective.
        processes: how many processes train; each takes its own micro-batches.

    Raises:
        ObjectiveError: a setting that TRL does not have, a value that it refuses, or a loss that
            the language cannot express; each at its place.
    """
    alone = {*RLOO} - {*GRPO}
    rloo = "rloo" in source.name.lower() or bool(alone & values.keys())
    framework = f"TRL {VERSION}"
    if rloo:
        settings = Settings(source, values, framework, RLOO, OTHERS["rloo"])
        writer: _Writer = _Rloo(settings, name, processes)
    else:
        settings = Settings(source, values, framework, GRPO, OTHERS["grpo"])
        writer = _Grpo(settings, name, processes)
    text = writer.text()
    settings.finish()
    return Imported(text, tuple(writer.outside))


class _Writer:
    """Writes an objective statement by statement; a comment beside each says what asked for it."""

    title: str
    defaults: Mapping[str, Any]

    def __init__(self, settings: Settings, name: str, processes: int) -> None:
        self.settings, self.name = settings, name
        self.lines: list[str] = []
        self.outside: list[str] = []
        self.vllm = settings.flag("use_vllm")
        self.masked = settings.flag("mask_truncated_completions")
        self.unmasked = " | not truncated" if self.masked else ""
        window = settings.count("gradient_accumulation_steps")
        self.parts = window * processes  # micro-batches of an optimizer step
        rows = settings.count("per_device_train_batch_size") * processes
        drawn = window
        if settings.is_set("generation_batch_size"):
            if settings.is_set("steps_per_generation"):
                settings.refuse(
                    "generation_batch_size",
                    "`generation_batch_size` and `steps_per_generation` are both set",
                    "TRL takes one of them",
                )
            drawn = settings.count("generation_batch_size") // rows
        elif settings.is_set("steps_per_generation"):
            drawn = settings.count("steps_per_generation")
        self.iterations = settings.count("num_iterations")
        self.rollout_steps = max(drawn * self.iterations // window, 1)
        self.whole = drawn == window  # the rollout is one optimizer step, perhaps repeated
        if rows * drawn % settings.count("num_generations"):
            settings.refuse(
                "num_generations",
                f"a rollout's {rows * drawn} responses are no multiple of `num_generations`",
                f"it has per_device_train_batch_size ({rows // processes}) on each of {processes} "
                f"processes, {drawn} times",
            )

    def write(self, statement: str, comment: str = "") -> None:
        self.lines.append(f"{statement}  # {comment}" if comment else statement)

    def gap(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append("")

    def param(self, name: str, setting: str, domain: str, value: float | None = None) -> str:
        """A parameter with the value of a setting; its name."""
        value = self.settings.number(setting) if value is None else value
        self.write(f"param {name} = {value:.12g} in {domain}", setting)
        return name

    # --- what the trainers share -----------------------------------------------------------------

    def rewards(self) -> tuple[list[str], list[float]]:
        """The names of the rewards, declared; and their weights."""
        settings = self.settings
        weights = settings.numbers("reward_weights")
        names = settings.words("reward_funcs")
        if settings.is_set("reward_model_name_or_path"):
            names = ["reward_model", *names]
        known = bool(names)
        if not names and weights is not None:
            names = ["reward_" + str(k + 1) for k in range(len(weights))]
        names = [_identifier(name) for name in names] or ["reward"]
        weights = [1.0] * len(names) if weights is None else weights
        if len(weights) != len(names):
            settings.refuse(
                "reward_weights",
                f"there are {len(names)} reward functions, but {len(weights)} weights",
                "TRL takes a weight for each of reward_funcs",
            )
        if len(names) == 1:
            return ["reward"], weights[:1]
        for name in names:
            self.write(f"given {name}[p,i] as reward", "reward_funcs" if known else "")
        self.gap()
        return names, weights

    def reward(self, names: list[str], weights: list[float]) -> str:
        """The weighted sum of the rewards, as a name."""
        if names == ["reward"] and weights == [1]:
            return "reward"
        total = " + ".join(
            name if weight == 1 else f"{weight:.12g} * {name}"
            for name, weight in zip(names, weights, strict=False)
        )
        self.write(f"R = {total}", "reward_weights" if any(w != 1 for w in weights) else "")
        return "R"

    def bounds(self) -> tuple[str, str]:
        """The bounds of the clip, as parameters."""
        low = self.param("eps", "epsilon", "[0, 1)")
        if self.settings.optional("epsilon_high") is None:
            return low, low
        return low, self.param("eps_high", "epsilon_high", "[0, inf)")

    def sample(self, sampler: str) -> None:
        settings = self.settings
        options = [f"group {settings.count('num_generations')}"]
        options.append(f"temperature {settings.number('temperature'):.12g}")
        if (top_p := settings.number("top_p")) != 1:
            options.append(f"top_p {top_p:.12g}")
        if (top_k := settings.number("top_k")) > 0:
            options.append(f"top_k {top_k:.12g}")
        self.gap()
        self.write(f"sample from {sampler}: {', '.join(options)}")
        self.gap()
        if settings.optional("min_p"):
            self.outside.append("min_p removes tokens from the sampler's distribution")
        if settings.number("repetition_penalty") != 1:
            self.outside.append("repetition_penalty changes the sampler's distribution")

    @property
    def altered(self) -> bool:
        """Whether the sampler's distribution differs from the policy's."""
        settings = self.settings
        return (
            self.vllm
            or settings.number("top_p") != 1
            or settings.number("top_k") > 0
            or bool(settings.optional("min_p"))
            or settings.number("repetition_penalty") != 1
        )

    def beside(self) -> None:
        """What the configuration does besides the formula."""
        settings, outside = self.settings, self.outside
        if self.rollout_steps > 1:
            times = f", each {self.iterations} times" if self.iterations > 1 else ""
            outside.append(
                f"a rollout serves {self.rollout_steps} optimizer steps{times}: `old` is the "
                "policy before the first"
            )
        if not self.whole:
            outside.append(
                "advantages are those of the rollout, of which an optimizer step is a part"
            )
        if settings.flag("sync_ref_model"):
            outside.append(
                f"the reference moves towards the policy every "
                f"{settings.count('ref_model_sync_steps')} optimizer steps, by a share of "
                f"{settings.number('ref_model_mixup_alpha'):g} (sync_ref_model)"
            )
        if settings.optional("router_aux_loss_coef") != 0:
            outside.append("a mixture of experts adds its router's auxiliary loss")
        outside.append("a response that no reward function scores has an advantage of 0")
        if not settings.is_set("reward_funcs") and settings.numbers("reward_weights") is None:
            outside.append("`reward` is the sum of the reward functions, which are not named here")

    def text(self) -> str:
        self.body()
        self.beside()
        heading = [
            f"# What TRL {VERSION} computes for {self.title} under {self.settings.source.name}.",
            *(f"# Not in the formula: {sentence}." for sentence in self.outside),
            f"objective {self.name}",
            "",
        ]
        return "\n".join([*heading, *self.lines]).rstrip() + "\n"

    def body(self) -> None:
        raise NotImplementedError


class _Grpo(_Writer):
    title = "GRPO"

    def body(self) -> None:
        settings = self.settings
        self.loss = settings.choice("loss_type", _LOSSES)
        self.sequence = (
            settings.choice("importance_sampling_level", ("token", "sequence")) == "sequence"
        )
        names, weights = self.rewards()
        low, high, delta = self.clip()
        beta = self.settings.number("beta")
        if beta:
            self.param("beta", "beta", "(-inf, inf)")
        self.gap()
        self.advantages(names, weights)
        if self.sequence:
            self.write("r = exp(mean[t] log(pi / old))", "importance_sampling_level: sequence")
        else:
            self.write("r = pi / old", "importance_sampling_level: token")
        factors, weight = self.masks(), self.correction()
        x = self.surrogate(low, high, delta, weight)
        if weight and self.loss != "vespo":
            factors.append(weight)
        x = " * ".join([*factors, x])
        if beta:
            weighted = settings.flag("use_bias_correction_kl")
            kl = "beta * r * k3(pi, ref)" if weighted else "beta * k3(pi, ref)"
            self.write(
                f"X = {x} - {kl}", f"use_bias_correction_kl: {'true' if weighted else 'false'}"
            )
        else:
            self.write(f"X = {x}")
        self.by_token = (
            not self.sequence
            or bool(beta)
            or self.loss in ("cispo", "vespo")
            or "high" in factors
            or (weight in factors and self._is_token_weight)
        )
        goal = self.mean()
        bonus = self.bonus()
        self.sample("mu" if self.altered else "old")
        self.write(f"maximize {goal}{bonus}", f"loss_type: {self.loss}")

    def clip(self) -> tuple[str, str, float | None]:
        """The parameters of the ratio's bounds; names of the lower and the upper one, and delta."""
        settings = self.settings
        delta = settings.optional("delta")
        if self.loss == "cispo":
            high = settings.optional("epsilon_high")
            setting = "epsilon" if high is None else "epsilon_high"
            return "", self.param("bound", setting, "[0, inf)"), None
        if self.loss in ("sapo", "vespo"):
            return "", "", None
        low, high_name = self.bounds()
        if delta is not None:
            self.param("delta", "delta", "(0, inf)")
        return low, high_name, delta

    def advantages(self, names: list[str], weights: list[float]) -> None:
        settings = self.settings
        how = settings.choice(
            "multi_objective_aggregation", ("sum_then_normalize", "normalize_then_sum")
        )
        if how == "normalize_then_sum":
            terms = []
            for name, weight in zip(names, weights, strict=False):
                scaled = f"({name} - mean[i] {name}) / (std[i] {name} + 1e-4)"
                terms.append(scaled if weight == 1 else f"{weight:.12g} * {scaled}")
            self.write(f"B = {' + '.join(terms)}", "multi_objective_aggregation")
            self.write("A = (B - mean[p,i] B) / (std[p,i] B + 1e-4)")
            return
        reward = self.reward(names, weights)
        value = self.settings.values.get("scale_rewards")
        if value is not None and isinstance(value.value, bool):
            scale = "group" if value.value else "none"
        else:
            scale = settings.choice("scale_rewards", ("group", "batch", "none"))
        centred = f"{reward} - mean[i] {reward}"
        match scale:
            case "none":
                formula = centred
            case "batch":
                formula = f"({centred}) / (std[p,i] {reward} + 1e-4)"
            case _:
                formula = f"({centred}) / (std[i] {reward} + 1e-4)"
        self.write(f"A = {formula}", f"scale_rewards: {scale}")

    def masks(self) -> list[str]:
        """Masks that the policy's term is multiplied by, by name."""
        settings, factors = self.settings, []
        threshold = settings.optional("off_policy_mask_threshold")
        if threshold is not None:
            self.param("threshold", "off_policy_mask_threshold", "(-inf, inf)", threshold)
            sampler = "mu" if self.vllm else "old"
            self.write(f"near = A >= 0 or mean[t] log({sampler} / pi) <= threshold")
            factors.append("near")
        quantile = settings.number("top_entropy_quantile")
        if quantile < 1:
            if self.parts > 1:
                settings.refuse(
                    "top_entropy_quantile",
                    "the quantile of the entropies is that of each micro-batch",
                    f"an optimizer step has {self.parts}, and the language has quantiles of the "
                    "step; it is exact with a single one",
                )
            self.write(
                f"high = entropy >= quantile[p,i,t{self.unmasked}](entropy, {1 - quantile:.12g})",
                "top_entropy_quantile",
            )
            factors.append("high")
        return factors

    def correction(self) -> str:
        """The weight between the engines, defined; its name, or nothing."""
        settings = self.settings
        if not self.vllm or not settings.flag("vllm_importance_sampling_correction"):
            return ""
        mode = settings.choice(
            "vllm_importance_sampling_mode",
            ("sequence_mask", "sequence_truncate", "token_mask", "token_truncate"),
        )
        low = settings.optional("vllm_importance_sampling_clip_min")
        high = settings.optional("vllm_importance_sampling_clip_max")
        if settings.optional("vllm_importance_sampling_cap") is not None:
            high = settings.optional("vllm_importance_sampling_cap")
        level = "old / mu" if mode.startswith("token") else f"prod[t{self.unmasked}] (old / mu)"
        self.write(f"W = {level}", f"vllm_importance_sampling_mode: {mode}")
        if mode.endswith("truncate"):
            if low is None and high is None:
                settings.refuse(
                    "vllm_importance_sampling_mode",
                    f"`{mode}` has no bound",
                    "TRL asks for vllm_importance_sampling_clip_min or _max",
                )
            formula = "W"
            formula = formula if low is None else f"max({formula}, {low:.12g})"
            formula = formula if high is None else f"min({formula}, {high:.12g})"
            self.write(f"w = {formula}", "vllm_importance_sampling_clip_min, _max")
            return "w"
        outside = [f"W < {low:.12g}"] if low is not None else []
        outside += [f"W > {high:.12g}"] if high is not None else []
        if not outside:
            return "W"
        self.write(
            f"w = 0 if {' or '.join(outside)} else W", "vllm_importance_sampling_clip_min, _max"
        )
        return "w"

    @property
    def _is_token_weight(self) -> bool:
        """Whether the weight between the engines is that of a token, and not of a response."""
        mode = self.settings.values.get("vllm_importance_sampling_mode")
        return mode is not None and str(mode.value).startswith("token")

    def surrogate(self, low: str, high: str, delta: float | None, weight: str) -> str:
        """What a token contributes, without masks and weights."""
        match self.loss:
            case "cispo":
                return f"sg(min(r, {high})) * A * log(pi)"
            case "sapo":
                positive = self.settings.number("sapo_temperature_pos")
                negative = self.settings.number("sapo_temperature_neg")
                self.write(
                    f"tau = {positive:.12g} if A > 0 else {negative:.12g}", "sapo_temperature_*"
                )
                return "4 / tau * sigmoid(tau * (r - 1)) * A"
            case "vespo":
                self.vespo(weight)
                return "phi * A * log(pi)"
        if delta is not None:
            return f"min(min(r, delta) * A, clip(r, 1 - {low}, 1 + {high}) * A)"
        return f"surrogate(r, A, 1 - {low}, 1 + {high})"

    def vespo(self, weight: str) -> None:
        settings = self.settings
        mask = self.unmasked
        floor = f"log({_SMALLEST:g})"
        self.write(f"L = sum[t{mask}] clip(log(pi / old), -20, 20)")
        if weight:
            bounded = f"clip(log(max({weight}, {_SMALLEST:g})), {floor}, 20)"
            self.write(f"M = {f'sum[t{mask}] {bounded}' if self._is_token_weight else bounded}")
            self.write(f"log_w = clip(L + M, {floor}, 20)")
        else:
            self.write(f"log_w = clip(L, {floor}, 20)")
        k = [settings.number(f"vespo_k_{side}") for side in ("pos", "neg")]
        lam = [max(settings.number(f"vespo_lambda_{side}"), 1e-4) for side in ("pos", "neg")]
        self.write(f"k = {k[0]:.12g} if A >= 0 else {k[1]:.12g}", "vespo_k_*")
        self.write(f"lam = {lam[0]:.12g} if A >= 0 else {lam[1]:.12g}", "vespo_lambda_*")
        self.write("phi = sg(exp(lam + k * log_w - lam * exp(log_w)))")

    def mean(self) -> str:
        """The sum or the mean over the step that is maximised."""
        tokens = f"p,i,t{self.unmasked}"
        response = {"mean": "X", "sum": "|y| * X"}
        if self.masked:
            response = {how: f"(0 if truncated else {x})" for how, x in response.items()}
        if self.by_token:
            response = {how: f"{how}[t{self.unmasked}] X" for how in response}
        match self.loss:
            case "grpo" | "sapo":
                return f"mean[p,i] {response['mean']}"
            case "dr_grpo":
                length = self.settings.count("max_completion_length")
                return f"mean[p,i] ({response['sum']}) / {length}"
            case "luspo":
                return f"mean[p,i] ({response['sum']})"
            case "bnpo":
                return self.by_micro_batch("X", tokens)
        if not self.whole:
            self.outside.append(
                "the divisor is the mean number of tokens of the rollout's optimizer steps"
            )
        return f"mean[{tokens}] X"

    def by_micro_batch(self, value: str, tokens: str) -> str:
        """The mean over micro-batches of their token means."""
        if self.parts == 1:
            return f"mean[{tokens}] {value}"
        indices, _, mask = tokens.partition(" | ")
        if "size" not in " ".join(self.lines):
            self.lines.insert(
                0, f"given micro_batch[p,i] in {{{', '.join(map(str, range(self.parts)))}}}"
            )
            counted = f" | {mask}" if mask else ""
            self.write(f"size = sum[{indices} by micro_batch{counted}] 1")
        return f"sum[{tokens}] ({value} / size) / {self.parts}"

    def bonus(self) -> str:
        """The bonus of the entropy."""
        settings = self.settings
        coefficient = settings.number("entropy_coef")
        if settings.flag("use_adaptive_entropy"):
            settings.refuse(
                "use_adaptive_entropy",
                "the coefficient of the entropy changes after each optimizer step",
                "a state of the language changes once a rollout; set entropy_coef instead to see "
                "the objective of one step",
            )
        if not coefficient:
            return ""
        mask = [x for x in ("not truncated" if self.masked else "", "high") if x]
        if settings.number("top_entropy_quantile") == 1:
            mask = mask[:-1]
        tokens = f"p,i,t | {' and '.join(mask)}" if mask else "p,i,t"
        mean = self.by_micro_batch("entropy", tokens)
        sign = "-" if coefficient < 0 else "+"
        return f" {sign} {abs(coefficient):.12g} * ({mean})"


class _Rloo(_Writer):
    title = "RLOO"

    def body(self) -> None:
        settings = self.settings
        names, weights = self.rewards()
        low, high = self.bounds()
        beta = settings.number("beta")
        if beta:
            self.param("beta", "beta", "(-inf, inf)")
        self.gap()
        reward = self.reward(names, weights)
        limits = settings.numbers("reward_clip_range")
        if limits is not None:
            if len(limits) != 2:
                settings.refuse("reward_clip_range", "TRL takes two bounds here", "write [-1, 1]")
                limits = [0.0, 1.0]
            self.write(
                f"C = clip({reward}, {limits[0]:.12g}, {limits[1]:.12g})", "reward_clip_range"
            )
            reward = "C"
        if beta:
            self.write(f"K = {reward} - beta * sum[t{self.unmasked}] k1(old, ref)", "beta")
            reward = "K"
        centred = f"{reward} - mean[j != i] {reward}"
        if settings.flag("normalize_advantages"):
            self.write(f"B = {centred}")
            self.write("A = (B - mean[p,i] B) / (std[p,i] B + 1e-4)", "normalize_advantages")
        else:
            self.write(f"A = {centred}")
        self.write(f"r = exp(sum[t{self.unmasked}] log(pi / old))")
        self.sample("mu" if self.altered else "old")
        self.write(f"maximize mean[p,i] surrogate(r, A, 1 - {low}, 1 + {high})")


# Names that the text itself defines.
_TAKEN = frozenset(
    """A B C K L M R W X beta bound delta eps eps_high high k lam log_w micro_batch near phi r size
    tau threshold w""".split()
)


def _identifier(name: str) -> str:
    """The name of a reward function, as a name of the language: its last part."""
    short = identifier(name.rpartition("/")[2].rpartition(".")[2])
    return f"{short}_reward" if short in _TAKEN else short
