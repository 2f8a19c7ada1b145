"""The pages of docs/gallery: an index by group, and a page for each entry.

Everything on a page is computed quickly, except for the figures, which `make golden` measures. A
digest of their formula stands above them, and tells whether they are outdated.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import objdsl
from objdsl import driver
from objdsl.audit import Audit, audit
from objdsl.audit.result import EXACT, number
from objdsl.objectives import gallery

# Small enough to sum over all outcomes of a step.
SIZE = {"vocabulary": 2, "horizon": 2, "policies": 1}
DRIFT = 0.3
SAMPLES = 40
FIGURES = "## What the audit measures\n"
_BY_THE_AUDIT = {"reward", "truncated", "value", "value_old", "noise"}


def file_name(name: str) -> str:
    return name.rpartition("/")[2] + ".md"


def digest(name: str) -> str:
    """The digest of the formula, with everything that it takes from other files."""
    return hashed(driver.ir(driver.compile_source(gallery.find(name))))


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- a page --------------------------------------------------------------------------------------


def page(name: str, figures: str) -> str:
    """The page of an entry, with its figures, see `measured`."""
    return "\n".join(_described(name)) + "\n" + FIGURES + "\n" + figures


def _described(name: str) -> Iterator[str]:
    source = gallery.find(name)
    fields = gallery.fields(source)
    group = f"[{fields['group']}](README.md#{fields['group'].lower().replace(' ', '-')})"
    title, *prose = _prose(source.text)
    yield f"# {name.rpartition('/')[2]}\n"
    yield f"{_linked(title)}. {_linked(' '.join(prose))}".strip() + "\n"
    yield f"- When to use it: {fields['use']}."
    yield f"- What confirms it: {fields['source']}."
    yield f"- Group: {group}; `objdsl gallery cp {name}` copies the file.\n"
    yield f"```obj\n{_statements(source.text)}```\n"
    latex = driver.mathematics(driver.compile_source(source), latex=True)
    yield f"```math\n{latex.strip()}\n```\n"
    yield "## What the checker says\n"
    yield from _verdict(name)


def _prose(text: str) -> list[str]:
    """The lines of the header before its fields."""
    header, _, _ = text.partition("# group: ")
    return [line.removeprefix("# ") for line in header.splitlines()]


def _statements(text: str) -> str:
    """What follows the header, and the instructions to the checker."""
    lines = text.splitlines(keepends=True)
    first = next(i for i, x in enumerate(lines) if x.startswith(("# objdsl:", "objective ")))
    return "".join(lines[first:])


def _linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _verdict(name: str) -> Iterator[str]:
    checked = driver.check(gallery.find(name))
    findings = [(finding, "") for finding in checked.findings]
    findings += [(finding, "accepted") for finding in checked.suppressed]
    if not findings:
        yield "Nothing to report.\n"
        return
    rows = {
        f"| [{finding.name}](../rules/{finding.name}.md) | {accepted or finding.severity} | "
        f"{_cell(finding.message)} |": None
        for finding, accepted in findings
    }
    yield "| rule | | |\n| --- | --- | --- |"
    yield from rows
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


# --- figures -------------------------------------------------------------------------------------


def figures_of(written: str) -> tuple[str, str]:
    """The figures of a page that is there, and the digest of what they are of."""
    figures = written.partition(FIGURES + "\n")[2]
    mark = re.match(r"<!-- of (\w+) -->", figures)
    return figures, mark[1] if mark else ""


def measured(name: str) -> str:
    """The figures of an entry, below the digest of its formula."""
    return f"<!-- of {digest(name)} -->\n\n" + "\n".join(_figures(name))


def _figures(name: str) -> Iterator[str]:
    objective = objdsl.load(name)
    known = _BY_THE_AUDIT | {reward.name for reward in objective.formula.rewards}
    columns = [
        name
        for name, column in objective.columns.items()
        if column.indices and name not in known and "log_" not in name
    ]
    samples = SAMPLES if "noise" in objective.columns else None
    given = dict.fromkeys(columns, "random")
    result = audit(objective, **SIZE, drifts=(DRIFT,), given=given, samples=samples)
    options = [f"--{option} {value}" for option, value in SIZE.items()] + [f"--drift {DRIFT}"]
    options += [f"--given {column}=random" for column in columns]
    options += [f"--samples {samples}"] if samples else []
    yield from _tables(result)
    yield f"`objdsl audit {name} {' '.join(options)}` prints these, and more.\n"
    yield (
        "The residual is what is left of the expected gradient without the best multiple of that of"
        " the expected reward, relative to it: 0 is the right direction.\n"
    )


def _tables(result: Audit) -> Iterator[str]:
    if result.rows:
        yield "| policies | rewards | residual | cosine | norm |\n| --- | --- | --- | --- | --- |"
        for row in result.rows:
            numbers = (row.residual.mean, row.cosine.mean, row.norm.mean)
            cells = " | ".join(number(x if abs(x) > EXACT else 0.0) for x in numbers)
            yield f"| {row.policies} | {row.reward} | {cells} |"
    else:
        yield "It reads no reward, so that there is no expected one to compare with."
    yield ""
    for penalty in result.penalties:
        near = penalty.nearest
        nearly = f"nearly: {near.divergence}, residual {number(near.residual.mean)}"
        yield f"The terms against `{penalty.against}` descend {penalty.descends or nearly}.\n"


# --- the index -----------------------------------------------------------------------------------


def index() -> str:
    return "\n".join(_index()) + "\n"


def _index() -> Iterator[str]:
    yield "# The gallery\n"
    yield (
        "Published objectives, and what frameworks compute by default, as files of the language:"
        " `objdsl gallery` lists them, `objdsl gallery cp NAME` copies one. A page has the formula,"
        " what the checker says about it, and what the audit measures.\n"
    )
    for group, names in gallery.groups().items():
        yield f"## {group}\n"
        yield "| | when to use it | |\n| --- | --- | --- |"
        for name in names:
            source = gallery.find(name)
            title = _linked(gallery.heading(source))
            link = f"[{name.rpartition('/')[2]}]({file_name(name)})"
            yield f"| {link} | {_cell(gallery.fields(source)['use'])} | {_cell(title)} |"
        yield ""
    yield "## Not in the gallery yet\n"
    yield "Each of these waits for a source that prints its formula; none is written from memory.\n"
    yield "| method | what is needed |\n| --- | --- |"
    yield from (f"| {method} | {needed} |" for method, needed in MISSING)


# Method, and what its entry waits for.
MISSING = (
    ("λ-GRPO (arXiv:2510.06870)", "its formula: only abstracts and lists mention it"),
    ("turn-level GRPO (MT-GRPO)", "its formula; `gigpo` and `mean[t by turn]` say the like"),
    (
        "DCPO's smooth advantage (arXiv:2509.02333)",
        "statistics of a prompt over several steps, weighted by how often it was seen; `dcpo` has"
        " the clip alone",
    ),
    (
        "M2PO as in the paper (arXiv:2510.01161)",
        "a clip at the second moment of the tokens that it stops; `m2po` is AReaL's mask",
    ),
    (
        "OREAL's weights of tokens (arXiv:2502.06781)",
        "the reward model that learns with the policy, as a column",
    ),
    (
        "ASPO's clips by entropy (arXiv:2510.06062)",
        "two clips for tokens of high and low entropy; `aspo` has one",
    ),
    ("BAPO (arXiv:2510.18927)", "a search for its bounds in each step: see [limits](../limits.md)"),
    (
        "ARPO, SPO over segments, VinePPO",
        "a sampler that branches; their advantages are columns, `given adv[p,i,t] before t`",
    ),
    ("RAE (prime-rl)", "a state for each agent: see [limits](../limits.md)"),
    (
        "INTELLECT-2 (arXiv:2505.07291)",
        "its divisor and KL; its clip on two sides is that of `dual_clip` at c = 4, since `delta` "
        "is above the clip",
    ),
)
