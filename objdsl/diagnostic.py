"""The diagnostics of a text, as data. Only `objdsl.render` prints them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import StrEnum

from objdsl.frozen import dataclass
from objdsl.source import Span


class Severity(StrEnum):
    """Errors and warnings change the exit code; notes do so under `--strict`."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Certainty(StrEnum):
    """Whether the analysis proved the statement, or only found it likely."""

    PROVEN = "proven"
    LIKELY = "likely"


class Claim(StrEnum):
    """The property that a finding is about. Each is judged separately: an objective may be exact in
    one, and not in others."""

    DIRECTION = "direction"
    """Where the expected gradient points on policy, compared with that of the expected reward."""
    PROMPT_WEIGHTS = "prompt-weights"
    """How much each prompt counts."""
    OFF_POLICY = "off-policy"
    """What is not corrected, or truncated, if the policy is not the one that sampled."""
    PENALTY = "penalty"
    """What the terms besides the reward descend: divergences from frozen policies, entropies."""
    NUMERICS = "numerics"
    """Whether the numbers are finite, and their variance bounded."""
    STYLE = "style"
    """Notation, and constant factors."""
    LANGUAGE = "language"
    """Whether the text is an objective at all."""

    @property
    def phrase(self) -> str:
        """The claim as a phrase."""
        on = " on policy" if self is Claim.DIRECTION else ""
        return self.value.replace("-", " ") + on


@dataclass(frozen=True, slots=True)
class Label:
    """A second place in the text, and its relation to the finding."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the characters of `span` by `text`."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Fix:
    """Edits that remove the finding. `safe` ones leave the objective the same as mathematics."""

    title: str
    edits: tuple[Edit, ...]
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One statement about a text: what, where, why, and what to do.

    `name` and `code` identify the rule (`length-normalisation`, `OBJ101`), `claim` what it is
    about. `value` and `gradient` say what the finding does to each of the two; `fine_if` says when
    to leave it as it is.
    `choices` are what the text may have meant, of which its writer takes one: nothing else does.
    """

    name: str
    code: str
    severity: Severity
    message: str
    span: Span | None
    under: str = ""
    labels: tuple[Label, ...] = ()
    certainty: Certainty = Certainty.PROVEN
    weight: str = ""
    consequence: str = ""
    value: str = ""
    gradient: str = ""
    help: str = ""
    fine_if: str = ""
    fix: Fix | None = None
    claim: Claim = Claim.LANGUAGE
    choices: tuple[Fix, ...] = ()


def near(name: str, known: Iterable[str]) -> str | None:
    """The known command, setting or rule that `name` was probably meant to be, or None.

    Names in a formula go through `spelled`: there, a similar function is a different function.
    """
    known = list(known)
    folded = {other.casefold(): other for other in known}
    if name.casefold() in folded:
        return folded[name.casefold()]
    cutoff = 0.6 if len(name) > 3 else 0.5
    matches = difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return matches[0] if matches else None


def sharing_words(name: str, known: Iterable[str]) -> str | None:
    """The known name that shares the most words with `name`, `eps` with `epsilon_high`; of several
    None. A word counts that one of the two begins with."""

    def shared(other: str) -> int:
        pairs = ((a, b) for a in words for b in other.casefold().split("_"))
        return sum(len(min(a, b)) > 2 and (a.startswith(b) or b.startswith(a)) for a, b in pairs)

    words = name.casefold().split("_")
    counts = {other: shared(other) for other in known}
    best = [other for other, count in counts.items() if count == max(counts.values()) > 0]
    return best[0] if len(best) == 1 else None


def spelled(name: str, known: Iterable[str]) -> str | None:
    """The known name of which `name` is a different spelling; None if there is none, or several.

    Different spellings are: other capitals or underscores, a plural, two letters exchanged, one
    letter doubled or left out, or, in a long name, one wrong letter. Never a different first letter
    or digit: `gmean`, `log2` and `k4` are other functions.
    """
    known = dict.fromkeys(known)
    for alike in (same_letters, _slip):
        matches = [other for other in known if alike(name, other)]
        if matches:
            return matches[0] if len(matches) == 1 else None
    return None


def same_letters(name: str, other: str) -> bool:
    """Whether two names differ only in capitals, underscores and a plural."""
    plain = [text.casefold().replace("_", "") for text in (name, other)]
    return plain[0] == plain[1] or (len(plain[1]) > 2 and plain[0] == plain[1] + "s")


def _slip(name: str, other: str) -> bool:
    """Whether a single typing error turns `other` into `name`."""
    if [c for c in name if c.isdigit()] != [c for c in other if c.isdigit()]:
        return False
    name, other = name.casefold(), other.casefold()
    both = [*zip(name, other, strict=False)]
    start = next((k for k, (a, b) in enumerate(both) if a != b), len(both))
    longer = len(name) - len(other)
    if longer == 0:
        swapped = other[:start] + other[start : start + 2][::-1] + other[start + 2 :]
        if len(other) > 2 and name == swapped:
            return True
        return start > 0 and len(other) > 4 and name[start + 1 :] == other[start + 1 :]
    if longer == 1:  # a letter is doubled, or another one stands inside
        inside = start < len(other) and len(other) > 3
        doubled = start > 0 and name[start] == name[start - 1] and len(other) > 2
        return start > 0 and (inside or doubled) and name[:start] + name[start + 1 :] == other
    if longer == -1:
        return start > 0 and len(other) > 3 and name == other[:start] + other[start + 1 :]
    return False
