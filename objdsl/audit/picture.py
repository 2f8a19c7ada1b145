"""An audit as a picture. Needs matplotlib, which is imported when a picture is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from objdsl.audit.report import Audit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAR, _WORST, _ABOVE, _BELOW = _COLORS = ("#4c72b0", "#c44e52", "#55a868", "#8172b3")


def save(audit: Audit, path: Path) -> None:
    """Draws the residuals, the weight of a token by length, and what penalties descend.

    The suffix of the path determines the format. Panels without data are omitted.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    panels: list[Any] = []
    if audit.rows:
        panels.append(_residuals)
    if audit.lengths:
        panels.append(_lengths)
    if audit.penalties:
        panels.append(_penalties)
    figure = Figure(figsize=(4.6 * max(len(panels), 1), 3.4), layout="constrained")
    for k, panel in enumerate(panels):
        panel(audit, figure.add_subplot(1, len(panels), k + 1))
    how = "exact" if audit.exact else f"{audit.draws} random steps"
    figure.suptitle(f"{audit.objective} ({how})", fontweight="bold")
    figure.savefig(path, dpi=150)


def _residuals(audit: Audit, axes: Axes) -> None:
    names = [f"{row.reward}, {row.policies}" for row in audit.rows]
    places = range(len(names))
    means = [row.residual.mean for row in audit.rows]
    axes.barh(places, means, color=_BAR)
    for place, row in enumerate(audit.rows):
        if row.interval is not None:
            axes.plot(row.interval, [place, place], color="black", linewidth=1)
    worst = [row.residual.worst for row in audit.rows]
    axes.plot(worst, places, "|", color=_WORST, markersize=12)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("residual: mean (bar), worst policy (|)")
    axes.set_title("Against the policy gradient (0: unbiased)", fontsize="medium")


def _lengths(audit: Audit, axes: Axes) -> None:
    for name, color in (("above", _ABOVE), ("below", _BELOW)):
        points = [(row.length, x) for row in audit.lengths if (x := getattr(row, name)) is not None]
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=f"{name} average")
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks([row.length for row in audit.lengths])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("response length (tokens)")
    axes.set_ylabel("weight of a token")
    axes.set_title("Weight by length (1: true gradient)", fontsize="medium")
    axes.legend(frameon=False)


def _penalties(audit: Audit, axes: Axes) -> None:
    divergences = [match.divergence for match in audit.penalties[0].matches]
    height = 0.8 / len(audit.penalties)
    for k, penalty in enumerate(audit.penalties):
        places = [n + k * height for n in range(len(divergences))]
        cosines = [match.cosine.mean for match in penalty.matches]
        axes.barh(places, cosines, height, color=_COLORS[k % len(_COLORS)])
    axes.set_yticks(range(len(divergences)), divergences)
    axes.invert_yaxis()
    axes.set_xlim(-1, 1)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("cosine with the divergence's gradient")
    names = ", ".join(penalty.against for penalty in audit.penalties)
    axes.set_title(f"Terms against {names}", fontsize="medium")
