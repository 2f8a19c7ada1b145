"""GRPO's objective in TRL."""

from __future__ import annotations

from objdsl.frameworks.trl_writer import Writer

_LOSSES = ("dapo", "grpo", "bnpo", "dr_grpo", "luspo", "cispo", "sapo", "vespo")
_SMALLEST = 1e-8  # of VESPO's weights


class Grpo(Writer):
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
        divisors = {"none": "", "batch": f"std[p,i] {reward}", "group": f"std[i] {reward}"}
        divisor = divisors[scale]
        formula = f"({centred}) / ({divisor} + 1e-4)" if divisor else centred
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
        if not self.counted:
            self.counted = True
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
