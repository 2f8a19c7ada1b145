"""The reasons for which a claim does not hold exactly, and the departures that have them.

A reason belongs to one rule of the checker. Every factor that biases a gradient has a reason, the
last of which is that no other applies, so that no bias is without a finding.
"""

from __future__ import annotations

from enum import Enum

import objdsl.ir.nodes as n
from objdsl.analysis.gradient.divergence import Penalty
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.terms import Factor
from objdsl.diagnostic import Claim
from objdsl.frozen import dataclass


class Reason(Enum):
    """Why a claim does not hold exactly."""

    # the direction on policy: a factor of all rewarded terms
    LENGTH = "the response's own length divides"
    GEOMETRIC = "the response's own length divides, in the derivative of a geometric mean"
    LENGTH_WEIGHT = "a function of the response's own length"
    GROUP_TOKENS = "the tokens of the group divide"
    STEP_TOKENS = "the tokens of the step divide"
    COUNT = "the number of elements that a mask leaves divides"
    GROUP_DISPERSION = "the dispersion of the group's rewards divides"
    STEP_DISPERSION = "the dispersion of the step's rewards divides"
    MASK = "a mask of the response"
    DISCOUNT = "a reward that comes with the last token is discounted"
    REACH = "a token's reward does not reach all tokens up to it equally"
    SCORE = "log(pi) beside a weight with a gradient"
    SHARED = "others share tokens with the response"
    RESPONSE = "a different function of the response"
    # the direction on policy: a factor of a baseline
    BASELINE = "the baseline includes the response itself"
    STEP_BASELINE = "the baseline is a statistic of the step that includes the response itself"
    # the direction on policy: of the whole objective
    LIVE = "an advantage, a divisor or a small number beside a probability adds to the weight"
    CHOSEN = "prompts are selected by their responses"
    DOWN = "the sign is reversed"
    MIXED = "several rewards are weighted differently"
    NOTHING = "no reward has an effect"
    UNRAISED = "a reward is read, but nothing raises it"
    NO_REWARD = "no reward is recognised"
    SHAPING = "something is raised besides the reward"
    BOOTSTRAP = "the return depends on the critic"
    INNER = "the policy that samples is not the one that is trained"
    TRUNCATED_SAMPLING = "tokens are drawn from a part of the vocabulary"
    DISTRIBUTIONS = "rewards weight whole next-token distributions"
    TOO_LARGE = "the formula is too large"
    # any claim
    NOT_JUDGED = "not judged"
    # how much each prompt counts
    KEPT_PROMPTS = "prompts count by how often they are kept"
    PROMPT_WEIGHT = "a factor of the prompt or of the other responses"
    # off policy
    STALE = "no ratio corrects for older weights"
    FIRST_ORDER = "the reward's weight is not the ratio of the response, to first order"
    OTHER_WEIGHT = "the weight changes with the policies, but not only through ratios"
    BOUNDED = "the ratio is cut where the policies are far apart"
    UNWEIGHTED = "what is subtracted from the reward is not weighted by the ratio"
    # what the terms besides the reward descend
    PENALTY = "not the KL of whole responses"
    UNREAD_PENALTY = "not a function of the log-ratio alone"
    IDLE_BONUS = "a term of policies alone depends on earlier tokens only"
    FLAT_BONUS = "a term of log(pi) alone has a gradient that depends on the length only"
    LIVE_PENALTY = "the advantage that includes a penalty adds a gradient of its own"
    WITHOUT_GRADIENT = "a frozen policy does not affect the gradient"
    ENTROPY = "a term of whole distributions that is not a divergence"

    @property
    def claim(self) -> Claim:
        """The claim that does not hold, unless the reason concerns prompt weights alone."""
        return _CLAIMS.get(self, Claim.DIRECTION)


_CLAIMS = {
    **dict.fromkeys((Reason.KEPT_PROMPTS, Reason.PROMPT_WEIGHT), Claim.PROMPT_WEIGHTS),
    **dict.fromkeys(
        (
            Reason.STALE,
            Reason.FIRST_ORDER,
            Reason.OTHER_WEIGHT,
            Reason.BOUNDED,
            Reason.UNWEIGHTED,
        ),
        Claim.OFF_POLICY,
    ),
    **dict.fromkeys(
        (
            Reason.PENALTY,
            Reason.UNREAD_PENALTY,
            Reason.IDLE_BONUS,
            Reason.FLAT_BONUS,
            Reason.LIVE_PENALTY,
            Reason.WITHOUT_GRADIENT,
            Reason.ENTROPY,
        ),
        Claim.PENALTY,
    ),
}


@dataclass(frozen=True)
class Departure:
    """One reason why a claim does not hold exactly.

    Attributes:
        estimator: the weight that it is read from, if any.
        factor: the factor of the weight that is to blame, if any.
        everywhere: whether the factor weights the reward itself, and not only a baseline.
        penalty: the penalty that is not exact, if any.
        node: the part that was not judged, if any.
        why: the reason why it was not judged.
    """

    claim: Claim
    reason: Reason
    estimator: Estimator | None = None
    factor: Factor | None = None
    everywhere: bool = True
    penalty: Penalty | None = None
    node: n.Expr | None = None
    why: str = ""


def departure(reason: Reason, estimator: Estimator | None = None) -> Departure:
    """The departure of a whole objective."""
    return Departure(reason.claim, reason, estimator)
