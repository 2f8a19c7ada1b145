"""What the objectives of TRL's trainers share: rewards, bounds, the sampler, and the heading."""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.frameworks.settings import Settings
from objdsl.frameworks.trl_settings import VERSION
from objdsl.frameworks.writer import Statements, reward_name

# Names that the text itself defines.
_TAKEN = frozenset(
    """A B C K L M R W X beta bound delta eps eps_high high k lam log_w micro_batch near phi r size
    tau threshold w""".split()
)


class Writer(Statements):
    """The objective of one of TRL's trainers."""

    title: str

    def __init__(self, settings: Settings, name: str, processes: int) -> None:
        super().__init__(settings, name)
        self.counted = False  # whether `size`, the tokens of a micro-batch, is defined
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
        names = [reward_name(name, _TAKEN) for name in names] or ["reward"]
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
        outside += outside_every_loss(settings)
        outside.append("a response that no reward function scores has an advantage of 0")
        if not settings.is_set("reward_funcs") and settings.numbers("reward_weights") is None:
            outside.append("`reward` is the sum of the reward functions, which are not named here")

    def text(self) -> str:
        self.body()
        self.beside()
        return self.document(f"TRL {VERSION}", f" for {self.title}")

    def body(self) -> None:
        raise NotImplementedError


def outside_every_loss(settings: Settings) -> Iterator[str]:
    """What all trainers of TRL do beside the loss, as far as it is set."""
    if settings.flag("sync_ref_model"):
        yield (
            f"the reference moves towards the policy every "
            f"{settings.count('ref_model_sync_steps')} optimizer steps, by a share of "
            f"{settings.number('ref_model_mixup_alpha'):g} (sync_ref_model)"
        )
    if settings.optional("router_aux_loss_coef") != 0:
        yield "a mixture of experts adds its router's auxiliary loss"
