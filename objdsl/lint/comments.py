"""The pages of what may be wrong with a comment that accepts findings; `suppress` finds it."""

from __future__ import annotations

from objdsl.diagnostic import Claim, Severity
from objdsl.lint.rule import Page

UNEXPLAINED = Page(
    "suppression-without-reason",
    "OBJ901",
    Severity.WARNING,
    Claim.STYLE,
    """\
A comment accepts a finding, and does not say why.

**What.** `# objdsl: ignore[...]` with nothing after the bracket.

**Why.** Whoever reads the objective next has to know whether the bias was meant: a paper that is
reproduced, data for which it vanishes, or something that nobody looked at.

**Fine if** never: one word is enough.

**Example.**

    r = pi / old  # objdsl: ignore[uncorrected-sampler]

**Instead.**

    r = pi / old  # objdsl: ignore[uncorrected-sampler] one engine samples and trains
""",
)

UNUSED = Page(
    "unused-suppression",
    "OBJ902",
    Severity.WARNING,
    Claim.STYLE,
    """\
A comment accepts a finding that is not there.

**What.** The rule says nothing of the statement, or the file, that the comment speaks for.

**Why.** The formula changed, or the comment stands in the wrong place: at the end of a line it
speaks for that statement, on a line of its own for the next one, before or beside the `objective`
line for the whole file. A file that starts `from` another answers for itself.

**Fine if** never; `objdsl check --fix` removes it.

**Example.**

    A = reward - mean[j != i] reward  # objdsl: ignore[std-normalisation] GRPO eq. 3

**Instead.**

    A = reward - mean[j != i] reward
""",
)

UNNAMED = Page(
    "suppression-without-rule",
    "OBJ907",
    Severity.WARNING,
    Claim.STYLE,
    """\
A comment does not say which finding it accepts.

**What.** `# objdsl: ignore` without a bracket that names rules or codes.

**Why.** It would accept what nobody has seen yet.

**Fine if** never.

**Example.**

    # objdsl: ignore GRPO eq. 3

**Instead.** The name is in the brackets of the finding: `warning[OBJ101 length-normalisation]`.

    # objdsl: ignore[length-normalisation] GRPO eq. 3
""",
)

UNKNOWN = Page(
    "unknown-rule",
    "OBJ908",
    Severity.WARNING,
    Claim.STYLE,
    """\
A comment accepts the findings of a rule that does not exist.

**What.** A name or a code in `# objdsl: ignore[...]` that no rule has.

**Why.** It is misspelt, and the finding that it means is still reported.

**Fine if** never. `objdsl rule` lists the rules.

**Example.**

    # objdsl: ignore[length-normalization] GRPO eq. 3

**Instead.**

    # objdsl: ignore[length-normalisation] GRPO eq. 3
""",
)

MISSPELT = Page(
    "unknown-instruction",
    "OBJ909",
    Severity.WARNING,
    Claim.STYLE,
    """\
A comment is addressed to objdsl, and says nothing that objdsl knows.

**What.** `# objdsl:` and another word than `ignore`.

**Why.** It is misspelt, and has no effect.

**Fine if** never.

**Example.**

    # objdsl: ingore[length-normalisation] GRPO eq. 3

**Instead.**

    # objdsl: ignore[length-normalisation] GRPO eq. 3
""",
)

COMMENT_PAGES = (UNEXPLAINED, UNUSED, UNNAMED, UNKNOWN, MISSPELT)
