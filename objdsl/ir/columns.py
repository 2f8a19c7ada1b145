"""The columns of data that a formula reads, and their roles.

Code that supplies data, or asks who does, asks a column for its role; the name is for people, and
for the keyword arguments that pass it.
"""

from __future__ import annotations

from collections.abc import Iterable

from objdsl.frozen import dataclass
from objdsl.ir.indices import RESPONSE, SCALAR, TOKEN, Indices
from objdsl.ir.nodes import Column as ColumnNode
from objdsl.ir.nodes import Expr, LogDist, LogProb, Pick

DISTRIBUTION = "_dist"
"""The ending of the column with a policy's distribution."""


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of a policy: of the sampled tokens, or a distribution at each of them."""

    policy: str
    distribution: bool = False

    @property
    def name(self) -> str:
        return f"log_{self.policy}{DISTRIBUTION if self.distribution else ''}"


@dataclass(frozen=True)
class Values:
    """The critic's values of states: of the critic that is trained, or of that at rollout time."""

    old: bool = False


@dataclass(frozen=True)
class Reward:
    """A column whose expectation is raised: `reward`, and those that the file declares `as
    reward`."""


@dataclass(frozen=True)
class Truncation:
    """Whether each response hit the length limit."""


@dataclass(frozen=True)
class Noise:
    """The random numbers of `pick`; `prepare` draws them unless they are given."""


@dataclass(frozen=True)
class State:
    """What the objective remembers from earlier rollouts: one number, or one per prompt."""


@dataclass(frozen=True)
class Learned:
    """A number that the optimizer trains beside the policy."""


@dataclass(frozen=True)
class Clock:
    """The number of rollouts so far, or that of the whole run."""


@dataclass(frozen=True)
class Ids:
    """The id of each token: its number in the tokenizer."""


@dataclass(frozen=True)
class Data:
    """Anything else that the file declares by `given`."""


Role = LogProbs | Values | Reward | Truncation | Noise | State | Learned | Clock | Ids | Data


@dataclass(frozen=True)
class Column:
    """A column that an objective reads, with its role, and whether a gradient reaches it."""

    name: str
    indices: Indices
    role: Role
    trained: bool = False

    @property
    def declared(self) -> bool:
        """Whether the file itself declares it, so that the user supplies its data."""
        return isinstance(self.role, Reward | Data) and self.name not in BUILT_IN


@dataclass(frozen=True)
class BuiltIn:
    """A column that every file can read, with its names in formulas and in data."""

    leaf: ColumnNode
    name: str
    role: Role
    meaning: str


BUILT_IN: dict[str, BuiltIn] = {
    row.leaf.name: row
    for row in (
        BuiltIn(
            ColumnNode("reward", RESPONSE, role="reward"), "reward", Reward(),
            "the outcome reward of a response, p,i",
        ),
        BuiltIn(
            ColumnNode("V", TOKEN, trained=True), "value", Values(),
            "the critic that is trained, p,i,t",
        ),
        BuiltIn(
            ColumnNode("V_old", TOKEN), "value_old", Values(old=True),
            "the critic at rollout time, p,i,t",
        ),
        BuiltIn(
            ColumnNode("truncated", RESPONSE, mask=True), "truncated", Truncation(),
            "whether a response hit the length limit, p,i",
        ),
    )
}  # fmt: skip
CLOCK: dict[str, BuiltIn] = {
    row.leaf.name: row
    for row in (
        BuiltIn(
            ColumnNode("step", SCALAR, lower=0.0, role="clock"), "rollout_step", Clock(),
            "the number of rollouts before this one",
        ),
        BuiltIn(
            ColumnNode("steps", SCALAR, lower=1.0, role="clock"), "rollout_steps", Clock(),
            "the number of rollouts of the whole run",
        ),
    )
}  # fmt: skip
"""The columns that every file can read, unless it uses the name for something else."""
IDS = BuiltIn(
    ColumnNode("token", TOKEN, role="ids", known="at t"), "token_ids", Ids(),
    "the id of the token, p,i,t, which is compared: `token == 5`",
)  # fmt: skip
NOISE = Column("noise", TOKEN, Noise())

_ROLES: dict[str, Role] = {
    "reward": Reward(), "state": State(), "learned": Learned(), "data": Data(),
}  # fmt: skip

Reading = ColumnNode | LogProb | LogDist | Pick
"""The nodes that read a column."""


def column_of(node: Reading) -> Column:
    """The column that a node reads."""
    match node:
        case LogProb(policy) | LogDist(policy):
            role = LogProbs(policy, isinstance(node, LogDist))
            return Column(role.name, node.indices, role, node.trained)
        case Pick():
            return NOISE
        case ColumnNode(name, over):
            if node.role == "ids":
                return Column(IDS.name, over, IDS.role)
            row = (CLOCK if node.role == "clock" else BUILT_IN).get(name)
            if row is not None:
                return Column(row.name, over, row.role, node.trained)
            return Column(name, over, _ROLES[node.role], node.trained)


def columns_in(read: Iterable[Expr]) -> dict[str, Column]:
    """The columns that some nodes read, by name, in order."""
    columns = {column_of(node) for node in read if isinstance(node, Reading)}
    return {column.name: column for column in sorted(columns, key=lambda column: column.name)}


def of_policy(name: str) -> tuple[str, str]:
    """The names of a policy's columns: of sampled tokens, and of whole distributions."""
    return LogProbs(name).name, LogProbs(name, distribution=True).name


def reader_of(column: str, policies: Iterable[str]) -> str | None:
    """The expression that reads a column of this name, as the file writes it: `log(old)` reads
    `log_old`. None if the name is free.

    Args:
        policies: those of the file, built-in ones included.
    """
    for policy in policies:
        for name, reader in zip(of_policy(policy), (f"log({policy})", f"{policy}[v]"), strict=True):
            if column == name:
                return reader
    renamed = (
        row for row in (*BUILT_IN.values(), *CLOCK.values(), IDS) if row.name != row.leaf.name
    )
    readers = {row.name: row.leaf.name for row in renamed} | {NOISE.name: "pick"}
    return readers.get(column)


def is_critic(node: Expr) -> bool:
    """Whether a node is a value of the critic, the trained one or that at rollout time."""
    return isinstance(node, ColumnNode) and isinstance(column_of(node).role, Values)
