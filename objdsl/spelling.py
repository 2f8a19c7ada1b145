"""The spellings of a name: papers write `π`, keyboards write `pi`, and both are the same name."""

from __future__ import annotations

import re

# Two letters that look the same are the same: keyboards produce the micro sign and the summation
# sign where papers mean the Greek letters.
_LETTERS = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "eps",
    "ϵ": "eps",
    "ζ": "zeta",
    "η": "eta",
    "θ": "theta",
    "κ": "kappa",
    "λ": "lam",
    "μ": "mu",
    "µ": "mu",
    "ν": "nu",
    "ξ": "xi",
    "π": "pi",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
    "φ": "phi",
    "ϕ": "phi",
    "χ": "chi",
    "ψ": "psi",
    "ω": "omega",
    "Γ": "Gamma",
    "Δ": "Delta",
    "∆": "Delta",
    "Θ": "Theta",
    "Λ": "Lambda",
    "Ξ": "Xi",
    "Π": "prod",
    "∏": "prod",
    "Σ": "sum",
    "∑": "sum",
    "Φ": "Phi",
    "Ψ": "Psi",
    "Ω": "Omega",
}
_SIGNS = {
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "·": "*",
    "×": "*",
    "−": "-",
    "∞": "inf",
    "∈": "in",
}
_CANONICAL = str.maketrans(_LETTERS | _SIGNS)


def canonical(text: str) -> str:
    """The spelling of a name, a number or an operator in ASCII: `ε_low` is `eps_low`."""
    if text == "**":
        return "^"
    return text if text.isascii() else text.translate(_CANONICAL)


# What a name may not be: indices, the length of a response, and `in`.
_RESERVED = {"t": "t_2", "p": "p_2", "i": "i_2", "v": "v_2", "y": "y_2", "in": "in_2"}


def identifier(*parts: str) -> str:
    """A name of the language, from parts of a name of something else."""
    name = re.sub(r"\W+", "_", "_".join(part for part in parts if part)).strip("_") or "x"
    return _RESERVED.get(name, name if not name[0].isdigit() else f"x_{name}")
