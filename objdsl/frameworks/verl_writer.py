"""An objective of verl: what its parts share, and how they are put together."""

from __future__ import annotations

from objdsl.frameworks.settings import Settings
from objdsl.frameworks.verl_settings import VERSION
from objdsl.frameworks.writer import Statements, reward_name

ACTOR, ROLLOUT, ALGORITHM = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout.", "algorithm."

AGGREGATIONS = (
    "token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
)  # fmt: skip

# Names that the text itself defines.
_TAKEN = frozenset(
    """A B C D G K N R T W X Y alpha b beta c clipped cov d delta dro_beta drop eps eps_high eps_v
    far gamma greedy kept kl_coef lam m micro_batch n pay penalty q r rho s share size tau w width
    z""".split()
)


class Run(Statements):
    """Writes the objective of a run.

    Attributes:
        v1: whether the trainer is `v1`, and not `RayPPOTrainer`.
        old: the policy that the ratio is taken to.
        group: responses to a prompt.
        kept: the mask of tokens that advantages and losses are computed from, `| kept`, or nothing.
        kept_by_token: whether that mask is one of tokens, and not of responses.
        by_token: whether advantages are those of tokens, and not of responses.
        weight: the factor of a token between the engines, `w`, or nothing.
        weight_by_token: whether it is one of tokens, and not of responses.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        self.data: list[str] = []
        self.params: list[str] = []
        self.v1 = settings.flag("trainer.use_v1")
        self.bypass = settings.flag("algorithm.rollout_correction.bypass_mode")
        self.old = "mu" if self.bypass else "old"
        self.group = settings.count(f"{ROLLOUT}n")
        self.kept = self.weight = ""
        self.kept_by_token = self.weight_by_token = self.by_token = False
        self.limit = 0  # of the logarithm of the ratio
        self.measured = False  # whether `width` is defined
        self.prompts = settings.count(f"{ACTOR}ppo_mini_batch_size")
        self.epochs = settings.count(f"{ACTOR}ppo_epochs")
        drawn = settings.count("data.train_batch_size")
        self.rollout_steps = max(drawn // self.prompts, 1)
        if drawn < self.prompts:
            settings.refuse(
                settings.first(f"{ACTOR}ppo_mini_batch_size", "data.train_batch_size"),
                f"an optimizer step has more prompts ({self.prompts}) than a rollout ({drawn})",
                "verl asks for `data.train_batch_size` to be as large",
            )
        self.critic = gae = settings.value("algorithm.adv_estimator") == "gae"
        if settings.value("critic.enable") is not None:
            self.critic = settings.flag("critic.enable")
        if gae and not self.critic:
            settings.refuse(
                "critic.enable", "`gae` without a critic", "verl computes no values then"
            )

    # --- the sizes of an optimizer step ----------------------------------------------------------

    @property
    def ranks(self) -> int:
        """How many ranks share the responses of an optimizer step."""
        settings = self.settings
        devices = settings.count("trainer.nnodes") * settings.count("trainer.n_gpus_per_node")
        if settings.value(f"{ACTOR}strategy") == "megatron":
            shared = 1
            for kind in ("tensor_model", "pipeline_model", "context"):
                shared *= settings.count(f"{ACTOR}megatron.{kind}_parallel_size")
        else:
            shared = settings.count(f"{ACTOR}ulysses_sequence_parallel_size")
        return max(devices // shared, 1)

    def micro_batches(self, asking: str, reason: str) -> int | None:
        """How many micro-batches a rank makes of its responses; None if that depends on lengths.

        Args:
            asking: the setting that gives them a say in the loss, for an error.
            reason: why it does.
        """
        settings = self.settings
        if settings.flag(f"{ACTOR}use_dynamic_bsz"):
            return None
        size = f"{ACTOR}ppo_micro_batch_size_per_gpu"
        if settings.optional(size) is None:
            settings.refuse(
                settings.first(size, asking, f"{ACTOR}loss_agg_mode"),
                f"`{size}` is not set",
                f"verl asks for it, and {reason}",
            )
            return 1
        rows = self.prompts * self.group
        if rows % (self.ranks * settings.count(size)):
            settings.refuse(
                size,
                f"the {rows} responses of an optimizer step do not fill micro-batches of "
                f"{settings.count(size)} on {self.ranks} ranks",
                "verl asks for equal ones",
            )
            return 1
        return rows // (self.ranks * settings.count(size))

    def number(self) -> str:
        """The number of a response's micro-batch, declared; its name."""
        return self.given("micro_batch[p,i]", "ppo_micro_batch_size_per_gpu")

    # --- aggregation -----------------------------------------------------------------------------

    def aggregated(
        self, value: str, mode: str, scale: str, kept: str | None = None, whole: bool = False
    ) -> str:
        """What `agg_loss` makes of a value of each token.

        Args:
            mode: a `loss_agg_mode`.
            scale: the setting that `seq-mean-token-sum-norm` divides by.
            kept: the mask of tokens that are summed; the one of the run if it is not given.
            whole: whether the divisor counts all tokens, and not those alone that are kept.
        """
        kept = self.kept if kept is None else kept
        match mode:
            case "token-mean" if kept and whole:
                return f"mean[p,i,t] ({value} if kept else 0)"
            case "token-mean":
                return f"mean[p,i,t{kept}] {value}"
            case "token-sum":
                return f"sum[p,i,t{kept}] {value}"
            case "seq-mean-token-mean":
                return f"mean[p,i] mean[t{kept}] {value}"
            case "seq-mean-token-sum":
                return f"mean[p,i] sum[t{kept}] {value}"
        return f"mean[p,i] ((sum[t{kept}] {value}) / {self.width(scale)})"

    def width(self, setting: str) -> str:
        """The divisor of `seq-mean-token-sum-norm`."""
        constant = self.settings.optional(setting)
        if constant is not None:
            return f"{constant:.12g}"
        if not self.v1:
            return str(self.settings.count(f"{ROLLOUT}response_length"))
        if not self.measured:
            self.measured = True
            reason = "the divisor is the longest response of a micro-batch"
            alone = self.micro_batches(setting, reason) == 1 and self.ranks == 1
            over = "p,i" if alone else f"p,i by {self.number()}"
            self.write(f"width = max[{over}] |y|", f"{_short(setting)}: null")
        return "width"

    def param(self, name: str, setting: str, domain: str, value: float | None = None) -> str:
        value = self.settings.number(setting) if value is None else value
        self.params.append(f"param {name} = {value:.12g} in {domain}  # {_short(setting)}")
        return name

    def given(self, column: str, comment: str) -> str:
        """A column of the data, declared once; its name."""
        statement = f"given {column}  # {comment}"
        name = column.partition("[")[0]
        if not any(line.startswith(f"given {name}[") for line in self.data):
            self.data.append(statement)
        return name

    def named(self, reward: str) -> str:
        """The name of a reward or a metric, as a name of the language."""
        return reward_name(reward, _TAKEN)

    def divergence(self, setting: str, policy: str, gradient: bool) -> str:
        """The estimate of the KL to the reference that a setting names."""
        settings = self.settings
        forms = {
            "k1": f"k1({policy}, ref)", "abs": f"abs(log({policy} / ref))",
            "k2": f"k2({policy}, ref)", "k3": f"min(k3({policy}, ref), 10)",
        }  # fmt: skip
        names = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"} | {x: x for x in forms}
        kind = settings.choice(setting, (*names, *(f"{name}+" for name in names)))
        form = forms[names[kind.removesuffix("+")]]
        if not gradient or not kind.endswith("+") or names[kind[:-1]] == "k2":
            return form
        return f"(sg({form}) + k2({policy}, ref) - sg(k2({policy}, ref)))"

    # --- the whole text --------------------------------------------------------------------------

    def text(self, goal: str) -> str:
        """The whole text, once everything that the goal reads is defined."""
        self.gap()
        self.sample()
        self.gap()
        self.write(f"maximize {goal}", f"{_short(ACTOR)}loss_agg_mode: {self.mode}")
        if self.critic:
            self.criticise()
        self.beside()
        parts = [self.data, [""] if self.data else [], self.params, [""] if self.params else []]
        self.lines = [line for part in parts for line in part] + self.lines
        return self.document(f"verl {VERSION}")

    @property
    def mode(self) -> str:
        return self.settings.choice(f"{ACTOR}loss_agg_mode", AGGREGATIONS)

    def sample(self) -> None:
        settings = self.settings
        options = [f"group {self.group}"] if self.group > 1 else []
        options.append(f"temperature {settings.number(f'{ROLLOUT}temperature'):.12g}")
        if (top_p := settings.number(f"{ROLLOUT}top_p")) != 1:
            options.append(f"top_p {top_p:.12g}")
        if (top_k := settings.number(f"{ROLLOUT}top_k")) > 0:
            options.append(f"top_k {top_k:.12g}")
        self.write(f"sample from mu: {', '.join(options)}")
        if not settings.flag("algorithm.filter_groups.enable"):
            return
        if not self.v1:
            self.outside.append("filter_groups does nothing with trainer.use_v1=false")
            return
        metric = settings.words("algorithm.filter_groups.metric")
        if not metric:
            settings.refuse(
                "algorithm.filter_groups.metric", "no metric to filter by", "verl asks for one"
            )
            return
        name = metric[0]
        if name != "reward":
            name = self.given(f"{self.named(name)}[p,i]", "algorithm.filter_groups.metric")
        self.write(f"keep p where min[i] {name} < max[i] {name}", "algorithm.filter_groups")
        self.outside.append("prompts that are not kept are replaced by others")

    def criticise(self) -> None:
        """The critic's loss."""
        settings = self.settings
        mode = self.mode  # of the actor, to which verl's default refers
        if "critic.loss_agg_mode" in settings.values:
            mode = settings.choice("critic.loss_agg_mode", AGGREGATIONS)
        self.param("eps_v", "critic.cliprange_value", "(0, inf)")
        loss = self.aggregated(
            "clipped_value_loss(T, eps_v)", mode, "critic.loss_scale_factor", None, self.v1
        )
        self.write(f"minimize critic {loss}", f"critic.loss_agg_mode: {mode}")
        sizes = [settings.count(f"critic.{name}") for name in ("ppo_mini_batch_size", "ppo_epochs")]
        if sizes != [self.prompts, self.epochs]:
            self.outside.append(
                f"the critic takes steps of its own, of {sizes[0]} prompts, {sizes[1]} times each"
            )
        if settings.number("trainer.critic_warmup"):
            self.outside.append(
                f"the critic alone trains for {settings.count('trainer.critic_warmup')} rollouts"
            )

    def beside(self) -> None:
        """What the configuration does besides the formula."""
        settings, outside = self.settings, self.outside
        steps, times = self.rollout_steps, self.epochs
        if steps * times > 1:
            repeated = f", each {times} times" if steps > 1 and times > 1 else ""
            outside.append(
                f"a rollout serves {steps if steps > 1 else times} optimizer steps{repeated}: "
                f"`{self.old}` is the policy before the first"
            )
        if self.rollout_steps > 1:
            outside.append(
                "advantages are those of the rollout, of which an optimizer step is a part"
            )
        if settings.is_set("trainer.v1.trainer_mode") and self.v1:
            mode = settings.words("trainer.v1.trainer_mode")[0]
            outside.append(f"rollouts come from older policies, too (trainer_mode: {mode})")
        if settings.flag(f"{ROLLOUT}multi_turn.enable"):
            outside.append("tokens of tools and users have no loss, and are no tokens here")
        if settings.flag("actor_rollout_ref.model.mtp.enable_train"):
            outside.append("multi-token prediction adds its own loss (model.mtp)")
        manager = " ".join(settings.words("reward.reward_manager.name"))
        outside.append(f"rewards are those of the reward manager `{manager}`, at the last token")
        if self.limit:
            outside.append(
                f"verl limits the logarithm of the ratio to {self.limit}, against overflow"
            )


def _short(setting: str) -> str:
    """The name of a setting as comments have it."""
    return setting.removeprefix("actor_rollout_ref.")
