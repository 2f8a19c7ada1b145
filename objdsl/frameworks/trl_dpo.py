"""DPO's objective in TRL, and the losses that its trainer has besides.

Read in `DPOTrainer._compute_loss`. A prompt has one chosen response and one rejected; `h` is the
log-ratio of a response, `s` its score, which `f_divergence_type` makes of it, `x` the chosen one's
score less the rejected one's, times beta.
"""

from __future__ import annotations

from objdsl.frameworks.settings import Settings
from objdsl.frameworks.trl_writer import outside_every_loss
from objdsl.frameworks.writer import Statements

# Losses of a difference of scores, for which TRL takes any divergence.
_OF_SCORES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
_OF_RATIOS = ("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down")
_SORTED = ("aot", "aot_unpaired")
LOSSES = (*_OF_SCORES, *_OF_RATIOS, *_SORTED)
_LARGEST = 80  # exponent of the alpha-divergence


class Dpo(Statements):
    title = "DPO"

    def __init__(self, settings: Settings, name: str, processes: int) -> None:
        super().__init__(settings, name)
        # Micro-batches of an optimizer step.
        self.parts = settings.count("gradient_accumulation_steps") * processes

    def text(self, framework: str) -> str:
        self.body()
        self.beside()
        return self.document(framework, " for DPO")

    def body(self) -> None:
        settings = self.settings
        losses, weights = self.losses()
        self.write("given chosen[p,i] in {0, 1}")
        if "sft" in losses and self.parts > 1:
            parts = ", ".join(map(str, range(self.parts)))
            self.write(f"given micro_batch[p,i] in {{{parts}}}")
        self.gap()
        if {*losses} != {"sft"}:
            self.strength(losses)
        if {*losses} & {"robust", "exo_pair"}:
            self.smoothing(losses)
        elif settings.is_set("label_smoothing"):
            self.outside.append("label_smoothing does nothing: only robust and exo_pair read it")
        if "discopop" in losses:
            self.param("tau", "discopop_tau", "(0, inf)")
        self.gap()
        self.scores(losses)
        weighting = settings.flag("use_weighting")
        if weighting:
            self.weighting(losses)
        self.gap()
        terms = [self.term(loss, weight) for loss, weight in zip(losses, weights, strict=False)]
        total = " + ".join(terms).replace("+ -", "- ")
        self.write(f"maximize {total}", f"loss_type: {', '.join(losses)}")

    def losses(self) -> tuple[list[str], list[float]]:
        """The losses that are added up, with their weights."""
        settings = self.settings
        losses = settings.words("loss_type")
        for loss in losses:
            if loss not in LOSSES:
                settings.choice("loss_type", LOSSES)
            if loss in _SORTED:
                settings.refuse(
                    "loss_type",
                    f"`{loss}` sorts the log-ratios of a micro-batch, and compares those of equal "
                    "rank",
                    "the language compares responses with responses of the same prompt, or with a "
                    "statistic of the step",
                )
        weights = settings.numbers("loss_weights") or [1.0] * len(losses)
        if len(weights) != len(losses):
            settings.refuse(
                "loss_weights",
                f"there are {len(losses)} losses, but {len(weights)} weights",
                "TRL takes a weight for each of loss_type",
            )
        known = [(x, w) for x, w in zip(losses, weights, strict=False) if x in (*_VALUES, "sft")]
        return [loss for loss, _ in known], [weight for _, weight in known]

    def strength(self, losses: list[str]) -> None:
        """beta, and the share of the tokens that only the longer response has."""
        settings = self.settings
        if settings.number("beta") == 0 and {*losses} & {"ipo", "sppo_hard"}:
            settings.refuse("beta", "`beta` is 0", "TRL divides by it")
        self.param("beta", "beta", "(-inf, inf)")
        if settings.optional("ld_alpha") is not None:
            self.param("alpha", "ld_alpha", "(-inf, inf)")

    def smoothing(self, losses: list[str]) -> None:
        """The probability that a label is wrong."""
        size = self.settings.number("label_smoothing")
        if "robust" in losses and not 0 <= size < 0.5:
            self.settings.refuse(
                "label_smoothing",
                f"`label_smoothing` is {size:g}",
                "TRL takes numbers from 0 to 0.5 for `robust`, without 0.5",
            )
        if "exo_pair" in losses and not 0 < size < 1:
            self.settings.refuse(
                "label_smoothing" if self.settings.is_set("label_smoothing") else "loss_type",
                f"`label_smoothing` is {size:g}",
                "`exo_pair` takes the logarithms of it, and of what is left to 1",
            )
        self.param("flip", "label_smoothing", "[0, 1)")

    def scores(self, losses: list[str]) -> None:
        """`h`, `s` and the differences between chosen and rejected that the losses read."""
        settings = self.settings
        if {*losses} == {"sft"}:
            return
        if settings.optional("ld_alpha") is None:
            self.write("h = sum[t] log(pi / ref)")
        else:
            self.write("shared = min[i] |y|")
            self.write("h = sum[t] ((1 if t <= shared else alpha) * log(pi / ref))", "ld_alpha")
        divergences = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
        divergence = settings.choice("f_divergence_type", divergences)
        others = [loss for loss in losses if loss not in _OF_SCORES]
        if divergence != "reverse_kl" and others:
            settings.refuse(
                "f_divergence_type",
                f"`{others[0]}` has no other divergence",
                f"TRL takes them for {', '.join(_OF_SCORES)}",
            )
        score = "h"
        order = settings.number("f_alpha_divergence_coef") - 1
        if divergence == "forward_kl":
            score = "1 - exp(-h)"
        elif divergence == "js_divergence":
            score = "log(2) + logsigmoid(h)"
        elif divergence == "alpha_divergence" and abs(order) >= 1e-6:
            score = f"(exp(min({order:.12g} * h, {_LARGEST})) - 1) / {order:.12g}"
        if score != "h":
            self.write(f"s = {score}", f"f_divergence_type: {divergence}")
            score = "s"
        if {*losses} & {"sigmoid", "hinge", "exo_pair", "robust", "discopop"}:
            self.write(f"x = beta * (mean[i | chosen] {score} - mean[i | not chosen] {score})")
        if {*losses} & {"ipo", "sigmoid_norm"}:
            self.write(f"m = {score} / |y|")
            self.write("n = mean[i | chosen] m - mean[i | not chosen] m")
        if {*losses} & {*_OF_RATIOS}:
            self.write("c = beta * mean[i | chosen] h")
            self.write("d = beta * mean[i | not chosen] h")

    def weighting(self, losses: list[str]) -> None:
        for loss in ("hinge", "sft"):
            if loss in losses:
                self.settings.refuse(
                    "use_weighting",
                    f"TRL fails to weight `{loss}`",
                    "DPOTrainer multiplies in place what PyTorch keeps for the gradient",
                )
        self.write("w = sg(exp(mean[t] (log(pi) - log(sum[v] (pi[v]^2)))))")
        self.write("W = (mean[i | chosen] w) * (mean[i | not chosen] w)", "use_weighting")

    def term(self, loss: str, weight: float) -> str:
        """What is maximised of a loss."""
        factor = "" if weight == 1 else f"{weight:.12g} * "
        if loss == "sft":
            return factor + self.likelihood()
        value = _VALUES[loss]
        if self.settings.flag("use_weighting"):
            value = f"W * ({value})"
        return f"{factor}mean[p] ({value})"

    def likelihood(self) -> str:
        """The mean over the tokens of chosen responses: of each micro-batch."""
        if self.parts == 1:
            return "mean[p,i,t | chosen] log(pi)"
        self.write("size = sum[p,i,t by micro_batch | chosen] 1")
        return f"sum[p,i,t | chosen] (log(pi) / size) / {self.parts}"

    def beside(self) -> None:
        """What the configuration does besides the formula."""
        settings, outside = self.settings, self.outside
        length = settings.optional("max_length")
        if length is not None:
            outside.append(f"a prompt and its response are cut after {length:g} tokens")
        outside += outside_every_loss(settings)


_VALUES = {
    "sigmoid": "logsigmoid(x)",
    "sigmoid_norm": "logsigmoid(beta * n)",
    "hinge": "-max(1 - x, 0)",
    "ipo": "-(n - 1 / (2 * beta))^2",
    "exo_pair": "-(sigmoid(x) * (logsigmoid(x) - log(1 - flip))"
    " + sigmoid(-x) * (logsigmoid(-x) - log(flip)))",
    "robust": "((1 - flip) * logsigmoid(x) - flip * logsigmoid(-x)) / (1 - 2 * flip)",
    "discopop": "logsigmoid(x) * sigmoid(-x / tau) - exp(-x) * sigmoid(x / tau)",
    "nca_pair": "logsigmoid(c) + 0.5 * logsigmoid(-c) + 0.5 * logsigmoid(-d)",
    "bco_pair": "logsigmoid(c) + logsigmoid(-d)",
    "sppo_hard": "-(c / beta - 0.5 / beta)^2 - (d / beta + 0.5 / beta)^2",
    "apo_zero": "sigmoid(c) - sigmoid(d) - 1",
    "apo_down": "sigmoid(c - d) - sigmoid(c) - 1",
}
"""What is maximised of a pair."""
