"""The name, the code and the page of every error of the language and every comment warning.

Those of the rules are in `objdsl.lint.rules`; no two kinds of finding share a name or a code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.frozen import dataclass
from objdsl.source import Span

ErrorName = Literal[
    "no-gradient",
    "syntax",
    "not-an-objective",
    "too-large",
    "nested-too-deeply",
    "unreadable-file",
    "unknown-name",
    "wrong-index",
    "cyclic-binding",
    "cyclic-base",
    "unknown-objective",
    "not-a-number",
    "wrong-type",
    "wrong-arguments",
    "duplicate-name",
    "reserved-name",
    "outside-domain",
    "no-goal",
    "empty-domain",
    "two-readings",
    "malformed-ir",
    "not-in-the-language",
    "unreadable-tex",
    "unreadable-config",
]
"""The errors of a text that is not an objective."""


@dataclass(frozen=True)
class Page:
    """The documentation of one kind of finding.

    Attributes:
        name: selects or silences it; reads naturally after "allow ...".
        code: `OBJ` and three digits; never reused for a different kind.
        severity: of its findings, unless one of them says otherwise. Only what is proven is a
            warning or an error.
        claim: what its findings are about, unless one of them says otherwise.
        doc: Markdown.
    """

    name: str
    code: str
    severity: Severity
    claim: Claim
    doc: str

    @property
    def summary(self) -> str:
        """The first line of the page, without its full stop."""
        return self.doc.strip().split("\n")[0].removesuffix(".")

    @property
    def page(self) -> str:
        """All of it, with a title."""
        head = f"{self.code}, {self.severity}. Claim: {self.claim.phrase}."
        return f"# {self.name}\n\n{head} {self.doc.strip()}\n"

    def diagnostic(self, message: str, span: Span | None = None, **details: Any) -> Diagnostic:
        """A diagnostic of this kind; `details` are the other fields of `Diagnostic`."""
        return Diagnostic(
            self.name, self.code, self.severity, message, span, claim=self.claim, **details
        )


def by_name(pages: Iterable[Page]) -> dict[str, Page]:
    """The pages by their names. Raises ValueError where two share a name or a code."""
    names: dict[str, Page] = {}
    codes: dict[str, Page] = {}
    for page in pages:
        if page.name in names or page.code in codes:
            raise ValueError(f"{page.code} {page.name}: this name or this code is already taken")
        names[page.name] = codes[page.code] = page
    return names


def error(name: ErrorName, message: str, span: Span | None = None, **details: Any) -> Diagnostic:
    """An error of a text; `details` are the other fields of `Diagnostic`."""
    return _ERRORS[name].diagnostic(message, span, **details)


def _language(name: ErrorName, code: str, doc: str) -> Page:
    return Page(name, code, Severity.ERROR, Claim.LANGUAGE, doc)


def _comment(name: str, code: str, doc: str) -> Page:
    return Page(name, code, Severity.WARNING, Claim.STYLE, doc)


# --- a text that is not an objective -------------------------------------------------------------

LANGUAGE_PAGES = (
    _language(
        "no-gradient",
        "OBJ505",
        """\
No gradient reaches the trained policy: training would do nothing.

**What.** The objective does not read `pi`, or only inside `sg`, in a mask or in a condition.

**Why.** `w = dJ / dlog pi` is zero for every input.

**Example.**

    maximize mean[p,i] (reward * sum[t] sg(log(pi)))

**Instead.**

    maximize mean[p,i] (reward * sum[t] log(pi))
""",
    ),
    _language(
        "syntax",
        "OBJ900",
        """\
A text that the grammar cannot read.

**What.** The message says what is expected at this place; `docs/language.md` describes the language
on one page. Every statement is read separately, so all mistakes of a file are reported at once.

**Example.**

    maximize mean[p,i] (reward * sum[t] log(pi)

**Instead.**

    maximize mean[p,i] (reward * sum[t] log(pi))
""",
    ),
    _language(
        "not-an-objective",
        "OBJ903",
        """\
A file that is not an objective.

**What.** 3D models and compiled code also have the suffix `.obj`. Such files, binary data, and text
in an encoding other than UTF-8 are not read.

**Instead.** Give the name of the right file, or save it as UTF-8.
""",
    ),
    _language(
        "too-large",
        "OBJ904",
        """\
A text that is far larger than any objective.

**What.** A file, a statement, or a formula after its functions are inlined, that is too large to be
read quickly. An objective fits on one screen.

**Instead.** Give parts names, and use the names.
""",
    ),
    _language(
        "nested-too-deeply",
        "OBJ905",
        """\
A formula, or a chain of definitions, that is deeper than any objective.

**What.** Brackets within brackets, or definitions that use definitions, hundreds of levels
deep.

**Instead.** Give parts names, and keep the chains short.
""",
    ),
    _language(
        "unreadable-file",
        "OBJ906",
        """\
A file that cannot be opened.

**What.** It does not exist, it is a folder, or its permissions forbid it.

**Instead.** Give the name of the right file; `objdsl gallery` lists the names that need no file.
""",
    ),
    _language(
        "unknown-name",
        "OBJ910",
        """\
A name that nothing defines.

**What.** A value, function, reduction, index, policy, column or option that neither the file nor
the language defines. A similar name is suggested if it looks like a misspelling (`rewrad`,
`Reward`). For a well-known name from elsewhere, such as `softmax` or `logp`, the message says how
to write it here, or that it is not possible.

**Example.**

    maximize mean[p,i] (rewrd * sum[t] log(pi))

**Instead.**

    maximize mean[p,i] (reward * sum[t] log(pi))
""",
    ),
    _language(
        "wrong-index",
        "OBJ911",
        """\
A value lacks an index that a reduction names, or still has one that must be reduced first.

**What.** Every value has the indices that it depends on: prompts `p`, responses `i`, tokens `t` and
the vocabulary `v`. A reduction removes an index, which must be there; in the end none may remain.

**Example.**

    maximize mean[p,i] mean[t] reward

**Instead.**

    maximize mean[p,i] (reward * mean[t] log(pi))
""",
    ),
    _language(
        "cyclic-binding",
        "OBJ912",
        """\
A name that is defined by itself.

**What.** A definition or a function that uses itself, directly or through others. Otherwise order
does not matter: a name may be used above its definition.

**Example.**

    A = B + reward
    B = A
    maximize mean[p,i] (A * sum[t] log(pi))

**Instead.**

    B = mean[i] reward
    A = reward - B
    maximize mean[p,i] (A * sum[t] log(pi))
""",
    ),
    _language(
        "cyclic-base",
        "OBJ913",
        """\
A file that starts `from` itself, directly or through others.

**Instead.** Break the cycle: one file must not start `from` another.
""",
    ),
    _language(
        "unknown-objective",
        "OBJ914",
        """\
The objective that a file starts `from` is neither in the same folder nor in the gallery.

**What.** `objective child from base` looks for `base.obj` in the folder of the file, and then
for `base` in the gallery.

**Example.**

    objective child from grop

**Instead.**

    objective child from grpo
""",
    ),
    _language(
        "not-a-number",
        "OBJ915",
        """\
A single number is expected, but the value still has an index.

**What.** What is maximised, minimised or reported is a single number per optimizer step.

**Example.**

    maximize reward * sum[t] log(pi)

**Instead.**

    maximize mean[p,i] (reward * sum[t] log(pi))
""",
    ),
    _language(
        "wrong-type",
        "OBJ916",
        """\
A number where a condition is expected, or a formula where a constant is.

**Example.**

    maximize mean[p,i] (sum[t] log(pi) if 2 * reward else 0)

**Instead.**

    maximize mean[p,i] (sum[t] log(pi) if reward > 0 else 0)
""",
    ),
    _language(
        "wrong-arguments",
        "OBJ917",
        """\
A function or a reduction with too few arguments, or too many.

**Example.**

    maximize mean[p,i,t] (reward * clip(pi / old, 0.8))

**Instead.**

    maximize mean[p,i,t] (reward * clip(pi / old, 0.8, 1.2))
""",
    ),
    _language(
        "duplicate-name",
        "OBJ918",
        """\
Two definitions of one name in one file.

**What.** A file that starts `from` another may redefine its names; within a file order does not
matter, so it would not be clear which definition counts.

**Example.**

    A = reward
    A = reward - mean[i] reward
    maximize mean[p,i] (A * sum[t] log(pi))

**Instead.**

    A = reward - mean[i] reward
    maximize mean[p,i] (A * sum[t] log(pi))
""",
    ),
    _language(
        "reserved-name",
        "OBJ919",
        """\
A definition of a name that has a meaning in the language.

**Example.**

    pi = 3.14
    maximize mean[p,i] (reward * sum[t] log(pi))

**Instead.**

    circle = 3.14
    maximize mean[p,i] (circle * reward * sum[t] log(pi))
""",
    ),
    _language(
        "outside-domain",
        "OBJ920",
        """\
A number outside the domain that is declared for it.

**Example.**

    param eps = 2 in (0, 1)
    maximize mean[p,i] (eps * reward * sum[t] log(pi))

**Instead.**

    param eps = 0.2 in (0, 1)
    maximize mean[p,i] (eps * reward * sum[t] log(pi))
""",
    ),
    _language(
        "no-goal",
        "OBJ921",
        """\
Nothing is maximised or minimised.

**What.** A file with an `objective` line must maximise or minimise something, itself or in the file
that it starts `from`.

**Example.**

    A = reward - mean[i] reward

**Instead.**

    A = reward - mean[i] reward
    maximize mean[p,i] (A * sum[t] log(pi))
""",
    ),
    _language(
        "empty-domain",
        "OBJ922",
        """\
A domain that contains no number.

**What.** A domain is written from its lower to its upper bound: `(0, 1)`. `(1, 0)` and `(1, 1)`
contain no number, so every default would be outside.

**Example.**

    param eps = 0.2 in (1, 0)
    maximize mean[p,i] (eps * reward * sum[t] log(pi))

**Instead.**

    param eps = 0.2 in (0, 1)
    maximize mean[p,i] (eps * reward * sum[t] log(pi))
""",
    ),
    _language(
        "two-readings",
        "OBJ923",
        """\
An ambiguous text: it can be read in two ways with different meanings.

**What.** A reduction without brackets followed by `^`, `*` or `/`. On paper a sum extends over the
product after it, and `mean x^2` is the mean of squares; here a reduction applies to the next
operand, as a function does. So `mean[i] x^2` is refused, and so is `sum[t] x * y`, unless both
readings have the same value: a sum or a mean that is multiplied or divided by something without its
indices (`sum[t] x / 4096`). `A * sum[t] x` and `x / mean[i] x` are not ambiguous. A function is
checked with the arguments of each call; one that is never called, for what holds with any
arguments.

`E[x]` is refused for the same reason: in a mean of means over the responses, the weight of a token
depends on the length of its response; in one mean over all tokens it does not. The choice matters.

**Example.**

    square = mean[i] reward^2
    maximize mean[p,i] (reward * sum[t] log(pi) / (1 + square))

**Instead.**

    square = mean[i] (reward^2)
    maximize mean[p,i] (reward * sum[t] log(pi) / (1 + square))
""",
    ),
    _language(
        "malformed-ir",
        "OBJ924",
        """\
A JSON file that is not an objective.

**What.** A field that is unknown, missing or of the wrong type, an operator or a kind of node that
does not exist, an operand that does not precede its user, or a name that nothing declares.
`docs/ir.schema.json` is the schema of what `objdsl compile --stage ir` writes and all commands
read.

**Instead.** Write what the message asks for, at the place that it names.
""",
    ),
    _language(
        "not-in-the-language",
        "OBJ925",
        """\
A formula in a JSON file that the language cannot express.

**What.** An objective in JSON is translated into the language, and that text is what is checked,
compiled and shown. It must have the formulas of the file, node by node. Formulas that the language
cannot produce are refused: a shift by two tokens, the negation of a number (which is a number), a
gradient through `old`, or a bound that the declared domain does not give.

**Instead.** Write the nearest formula, which the message shows.
""",
    ),
    _language(
        "unreadable-tex",
        "OBJ926",
        """\
LaTeX from which `objdsl import tex` cannot make an objective.

**What.** A macro of the paper, a symbol that nothing explains, the value of a response other than
the one that the sum runs over, or dots.

**Instead.** Write what the message asks for in the LaTeX, or write the formula in the language;
`docs/limits.md` lists what that cannot express.
""",
    ),
    _language(
        "unreadable-config",
        "OBJ927",
        """\
A configuration of a framework from which `objdsl import` cannot tell the objective.

**What.** A setting that the framework does not have in the version that was read, a value that it
refuses, a loss that the language cannot express, or an installed version with a different loss.

**Instead.** Correct the setting; for a loss that cannot be expressed, the message says which
setting to change to see the rest.
""",
    ),
)

# --- a comment that accepts findings -------------------------------------------------------------

UNEXPLAINED = _comment(
    "suppression-without-reason",
    "OBJ901",
    """\
A comment accepts a finding without a reason.

**What.** `# objdsl: ignore[...]` with nothing after the bracket.

**Why.** The next reader of the objective has to know whether the bias is intended: a paper is
reproduced, it vanishes on this data, or nobody looked at it.

**Fine if** never: one word is enough.

**Example.**

    r = pi / old  # objdsl: ignore[uncorrected-sampler]

**Instead.**

    r = pi / old  # objdsl: ignore[uncorrected-sampler] one engine samples and trains
""",
)

UNUSED = _comment(
    "unused-suppression",
    "OBJ902",
    """\
A comment accepts a finding that does not occur.

**What.** The rule reports nothing in the statement, or the file, that the comment applies to.

**Why.** The formula changed, or the comment is in the wrong place: at the end of a line it applies
to that statement, on a line of its own to the next one, before or beside the `objective` line to
the whole file. A file that starts `from` another does not inherit its comments.

**Fine if** never; `objdsl check --fix` removes it.

**Example.**

    A = reward - mean[j != i] reward  # objdsl: ignore[std-normalisation] GRPO eq. 3

**Instead.**

    A = reward - mean[j != i] reward
""",
)

UNNAMED = _comment(
    "suppression-without-rule",
    "OBJ907",
    """\
A comment does not say which finding it accepts.

**What.** `# objdsl: ignore` without a bracket that names rules or codes.

**Why.** It would also accept findings that nobody has seen yet.

**Fine if** never.

**Example.**

    # objdsl: ignore GRPO eq. 3

**Instead.** The finding shows its name in brackets: `warning[OBJ101 length-normalisation]`.

    # objdsl: ignore[length-normalisation] GRPO eq. 3
""",
)

UNKNOWN = _comment(
    "unknown-rule",
    "OBJ908",
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

MISSPELT = _comment(
    "unknown-instruction",
    "OBJ909",
    """\
A comment addresses objdsl with an unknown instruction.

**What.** `# objdsl:` followed by a word other than `ignore`.

**Why.** It is misspelt, and has no effect.

**Fine if** never.

**Example.**

    # objdsl: ingore[length-normalisation] GRPO eq. 3

**Instead.**

    # objdsl: ignore[length-normalisation] GRPO eq. 3
""",
)

COMMENT_PAGES = (UNEXPLAINED, UNUSED, UNNAMED, UNKNOWN, MISSPELT)

_ERRORS = by_name(LANGUAGE_PAGES)
if set(_ERRORS) != set(get_args(ErrorName)):
    raise ValueError(f"without a page: {set(get_args(ErrorName)) - set(_ERRORS)}")
by_name((*LANGUAGE_PAGES, *COMMENT_PAGES))
