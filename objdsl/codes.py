"""What may be wrong with a text: the name, the code and the page of every error.

Those of the rules stand beside the rules, in `objdsl.lint.rules`; no two kinds of finding share a
name or a code.
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
]
"""The errors of a text that is no objective."""


@dataclass(frozen=True)
class Page:
    """What people read about one kind of finding.

    Attributes:
        name: what people write to select or silence it; reads after "allow ...".
        code: `OBJ` and three digits; never used again for another kind.
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
            raise ValueError(f"{page.code} {page.name}: another page has this name or this code")
        names[page.name] = codes[page.code] = page
    return names


def error(name: ErrorName, message: str, span: Span | None = None, **details: Any) -> Diagnostic:
    """An error of a text; `details` are the other fields of `Diagnostic`."""
    return _ERRORS[name].diagnostic(message, span, **details)


def _language(name: ErrorName, code: str, doc: str) -> Page:
    return Page(name, code, Severity.ERROR, Claim.LANGUAGE, doc)


def _comment(name: str, code: str, doc: str) -> Page:
    return Page(name, code, Severity.WARNING, Claim.STYLE, doc)


# --- a text that is no objective -----------------------------------------------------------------

LANGUAGE_PAGES = (
    _language(
        "no-gradient",
        "OBJ505",
        """\
No gradient reaches what is trained: training would do nothing.

**What.** The objective does not read `pi`, or only behind `sg`, in a mask or in a condition.

**Why.** `w = dJ / dlog pi` is zero, whatever the data are.

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

**What.** The message says what is expected at the place; `docs/language.md` has the language on a
page. Every statement is read by itself, so that all mistakes of a file are reported at once.

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
A file that holds something else.

**What.** `.obj` is the suffix of 3D models and of compiled code, too. A file of either, of binary
data or of another encoding than UTF-8 is not read.

**Instead.** Name the file that was meant, or save it as UTF-8.
""",
    ),
    _language(
        "too-large",
        "OBJ904",
        """\
A text that is far larger than any objective.

**What.** A file, a statement, or the formula that remains once the functions are put in, beyond
what can be read in a moment. An objective fits on one screen.

**Instead.** Bind parts to names, and use the names.
""",
    ),
    _language(
        "nested-too-deeply",
        "OBJ905",
        """\
A formula, or a chain of definitions, that is deeper than any objective.

**What.** Brackets in brackets, or names that are defined by names, several hundred times.

**Instead.** Bind parts to names, and keep the chains short.
""",
    ),
    _language(
        "unreadable-file",
        "OBJ906",
        """\
A file that cannot be opened.

**What.** It is not there, it is a folder, or its permissions forbid it.

**Instead.** Name the file that was meant; `objdsl gallery` lists the names that need no file.
""",
    ),
    _language(
        "unknown-name",
        "OBJ910",
        """\
A name that nothing defines.

**What.** A value, function, reduction, index, policy, column or option that is neither of the file
nor of the language. A near one is offered where it is another spelling of the same name (`rewrad`,
`Reward`), and never where it is another function: of `median`, `softmax` or `logp` a sentence says
how it is written here, or that it cannot be.

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
A value does not vary along an index that is named, or still varies along one that is not.

**What.** Every value knows over which of prompts `p`, responses `i`, tokens `t` and words `v` it
runs. A reduction takes away an index that is there, and nothing may remain.

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

**What.** A binding or a function that reads itself, at once or by way of others. Order does not
matter otherwise: a name may be used above its definition.

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
A file that starts `from` itself, at once or by way of others.

**Instead.** One of them is to be the first.
""",
    ),
    _language(
        "unknown-objective",
        "OBJ914",
        """\
What a file starts `from` is neither beside it nor in the gallery.

**What.** `objective child from base` looks for `base.obj` beside the file, and then for `base` in
the gallery.

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
A single number is wanted, and the value runs over an index.

**What.** What is maximised, minimised or reported is one number for an optimizer step.

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
A number where a condition is wanted, or a formula where a constant is.

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
A function or a reduction without its arguments, or with too many.

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

**What.** A file that starts `from` another may define its names anew; within a file there is no
order that would say which one counts.

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

**What.** A file with an `objective` line, its own or that of the file that it starts `from`, says
what is maximised.

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
A domain that no number lies in.

**What.** A domain is written from its lower end to its upper end: `(0, 1)`. In `(1, 0)` and in
`(1, 1)` lies no number, so every default would be outside.

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
A text that can be read in two ways, which differ.

**What.** A reduction without brackets that `^`, `*` or `/` follows. On paper a sum reaches over the
product behind it, and `mean x^2` is the mean of squares; here a reduction takes the next operand,
as a function does. So `mean[i] x^2` is refused, and so is `sum[t] x * y`, unless the two readings
are one value: of a sum or a mean, multiplied with or divided by what carries none of its indices
(`sum[t] x / 4096`). `A * sum[t] x` and `x / mean[i] x` read one way. A function is read with the
arguments of each call, and one that nothing calls for what holds whatever its arguments are.

`E[x]` is refused for the same reason: a mean of means over the responses weighs a token by the
length of its response, and one mean over all tokens does not. To choose is to choose that bias.

**Example.**

    spread = mean[i] reward^2
    maximize mean[p,i] (reward * sum[t] log(pi) / (1 + spread))

**Instead.**

    spread = mean[i] (reward^2)
    maximize mean[p,i] (reward * sum[t] log(pi) / (1 + spread))
""",
    ),
    _language(
        "malformed-ir",
        "OBJ924",
        """\
A JSON file that is no objective.

**What.** A field that is unknown, missing or of another type, an operator or a kind of node that
does not exist, an operand that does not stand before its user, a name that nothing declares.
`docs/ir.schema.json` is the schema of what `objdsl compile --stage ir` writes, and all commands
read.

**Instead.** Write what the message asks for, at its place.
""",
    ),
    _language(
        "not-in-the-language",
        "OBJ925",
        """\
A formula in a JSON file that no text of the language means.

**What.** An objective that is given as JSON is written in the language, and that text is what is
checked, compiled and shown. It must mean the formulas of the file, node by node. Those of a shape
that the language does not make are refused: a shift by two tokens, a negation of a number (which is
a number), a gradient through `old`, ends of a domain that its declaration does not have.

**Instead.** Write the formula that the message calls nearest.
""",
    ),
)

# --- a comment that accepts findings -------------------------------------------------------------

UNEXPLAINED = _comment(
    "suppression-without-reason",
    "OBJ901",
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

UNUSED = _comment(
    "unused-suppression",
    "OBJ902",
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

UNNAMED = _comment(
    "suppression-without-rule",
    "OBJ907",
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

_ERRORS = by_name(LANGUAGE_PAGES)
if set(_ERRORS) != set(get_args(ErrorName)):
    raise ValueError(f"without a page: {set(get_args(ErrorName)) - set(_ERRORS)}")
by_name((*LANGUAGE_PAGES, *COMMENT_PAGES))
