"""The columns that an objective reads: each has a role, which decides who supplies it."""

from __future__ import annotations

import objdsl
from objdsl.ir.columns import (
    Column,
    Data,
    LogProbs,
    Noise,
    Reward,
    Truncation,
    Values,
    of_policy,
)
from objdsl.ir.indices import RESPONSE, TOKEN, VOCAB

EVERYTHING = """
given r_ext[p,i] as reward
given log_ratio[p,i,t]
policy early = pi at layer 2
policy x

maximize mean[p,i,t] (
  (reward + r_ext) * log(early) + sum[v] (pi[v] * log(pi[v] / x[v])) + log_ratio * log(pi / mu)
  + (V_old if pick[p,i,t](not truncated and old < 0.5, 0.5) else 0) * log(pi)
)
minimize critic mean[p,i,t] ((V - reward)^2)
"""


def test_every_column_has_its_role() -> None:
    columns = objdsl.loads(EVERYTHING).columns.values()
    assert {column.name: (column.role, column.indices, column.trained) for column in columns} == {
        "log_early": (LogProbs("early"), TOKEN, True),
        "log_mu": (LogProbs("mu"), TOKEN, False),
        "log_old": (LogProbs("old"), TOKEN, False),
        "log_pi": (LogProbs("pi"), TOKEN, True),
        "log_pi_dist": (LogProbs("pi", distribution=True), VOCAB, True),
        "log_ratio": (Data(), TOKEN, False),
        "log_x_dist": (LogProbs("x", distribution=True), VOCAB, False),
        "noise": (Noise(), TOKEN, False),
        "r_ext": (Reward(), RESPONSE, False),
        "reward": (Reward(), RESPONSE, False),
        "truncated": (Truncation(), RESPONSE, False),
        "value": (Values(), TOKEN, True),
        "value_old": (Values(old=True), TOKEN, False),
    }


def test_what_a_file_declares() -> None:
    columns = objdsl.loads(EVERYTHING).columns
    assert {name for name, column in columns.items() if column.declared} == {"log_ratio", "r_ext"}


def test_names_are_told_apart_by_roles_alone() -> None:
    """`log_x_dist` as a column of the file is no distribution of a policy `x`."""
    text = "given log_x_dist[p,i]\nmaximize mean[p,i] (log_x_dist * sum[t] log(pi))"
    (mine,) = (c for c in objdsl.loads(text).columns.values() if c.name == of_policy("x")[1])
    assert mine == Column("log_x_dist", RESPONSE, Data())


def test_built_in_columns_keep_their_names_with_a_domain() -> None:
    text = "given reward in {0, 1}\nmaximize mean[p,i] (reward * sum[t] log(pi))"
    assert objdsl.loads(text).columns["reward"] == Column("reward", RESPONSE, Reward())
