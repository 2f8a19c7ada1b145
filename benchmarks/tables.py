"""The results of benchmarks/head.py as tables and a picture; nothing is measured here.

    python benchmarks/tables.py     # rewrites the pages of benchmarks/results/head-*.json

The README shows a part of the tables, between two comments that name the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
_NONE = "—"

Cell = Callable[[dict[str, Any]], str]


def text(report: dict[str, Any]) -> str:
    """Everything, in Markdown."""
    parts = [_where(report), "## Counted", counted(report)]
    for shape in report["shapes"]:
        parts += [
            f"## {_shape(shape)}",
            f"{shape['rounds']} rounds; three products alone take "
            f"{shape['floor_milliseconds']:.0f} ms.",
            "### Time relative to the plain computation: median (and ratio of the shortest times)",
            _by_problem(shape, _ratios),
            "### Time of three products as a share of the time",
            _by_problem(shape, lambda x: f"{x['floor']:.0%}"),
            "### Peak memory of a run, MiB",
            _by_problem(shape, lambda x: f"{x['peak_mib']:.0f}"),
            "### Errors against float64: largest of log-probabilities; relative of dH and of dW",
            _by_problem(shape, _errors),
            "### Seconds of the first run, including compilation",
            _by_problem(shape, lambda x: f"{x['first_seconds']:.1f}"),
        ]
    parts += ["## Why some numbers are missing", _reasons(report)]
    return "\n\n".join(parts)


def short(report: dict[str, Any]) -> str:
    """The tables of the README."""
    shape = report["shapes"][0]
    rounds = f"{shape['rounds']} rounds on {_machine(report)}:"
    return "\n\n".join([rounds, _by_problem(shape, _ratio), by_contestant(report)])


def by_contestant(report: dict[str, Any]) -> str:
    """The first objective on dense data: all measurements of each contestant."""
    shape = report["shapes"][0]
    problem, rows = next(iter(shape["results"].items()))
    counts = report["audit"]["results"][problem.rsplit(", ", 1)[0]]
    lines = []
    for who in _measured(shape):
        row, count = rows[who], counts[who]
        cells = [_NONE] * 5 if "reason" in row else _facts(row)
        cells += [_NONE] * 3 if "reason" in count else _counts(count)
        lines.append([who, *cells])
    return _table(
        [
            problem, "time", "peak, MiB", "max abs dlogp", "rel dH", "rel dW",
            "products", "bytes / NV", "operations",
        ],
        lines,
    )  # fmt: skip


def counted(report: dict[str, Any]) -> str:
    """The audit: products by dtype, bytes, operations."""
    audit = report["audit"]
    lines = [
        [objective, who, *_counts(row)]
        for objective, rows in audit["results"].items()
        for who, row in rows.items()
        if "reason" not in row
    ]
    reasons = {
        f"- {who}: {' '.join(row['reason'].split())}"
        for rows in audit["results"].values()
        for who, row in rows.items()
        if "reason" in row
    }
    return "\n\n".join(
        [
            f"{_shape(audit)}, bfloat16, as on a GPU, operation by operation.",
            _table(["objective", "", "products", "bytes / NV", "operations"], lines),
            "\n".join(sorted(reasons)),
        ]
    )


# --- the cells -----------------------------------------------------------------------------------


def _ratio(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f}" if "ratio" in row else _NONE


def _ratios(row: dict[str, Any]) -> str:
    return f"{row['ratio']:.2f} ({row['least_ratio']:.2f})" if "ratio" in row else _NONE


def _facts(row: dict[str, Any]) -> list[str]:
    return [_ratio(row), f"{row['peak_mib']:.0f}", *_errors(row).split(" / ")]


def _errors(row: dict[str, Any]) -> str:
    errors = (row["errors"][name] for name in ("log_pi", "hidden", "weight"))
    return " / ".join(_NONE if x is None else f"{x:.0e}" for x in errors)


def _counts(row: dict[str, Any]) -> list[str]:
    products = " + ".join(f"{n:.1f} {dtype}" for dtype, n in sorted(row["products"].items()))
    return [products, f"{row['bytes_a_logit']:.0f}", str(row["operations"])]


def _measured(shape: dict[str, Any]) -> list[str]:
    """The contestants with at least one measurement."""
    rows = shape["results"].values()
    return [who for who in next(iter(rows)) if any("reason" not in by_who[who] for by_who in rows)]


def _by_problem(shape: dict[str, Any], cell: Cell) -> str:
    names = _measured(shape)
    lines = [
        [problem, *(_NONE if "reason" in rows[who] else cell(rows[who]) for who in names)]
        for problem, rows in shape["results"].items()
    ]
    return _table(["objective, data", *names], lines)


def _reasons(report: dict[str, Any]) -> str:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for shape in report["shapes"]:
        for problem, rows in shape["results"].items():
            for who, row in rows.items():
                if "reason" in row:
                    by_reason.setdefault((who, row["reason"]), []).append(problem)
    many = sum(len(shape["results"]) for shape in report["shapes"])
    lines = []
    for (who, reason), where in sorted(by_reason.items()):
        place = "everywhere" if len(where) == many else "; ".join(where)
        lines.append(f"- {who}, {place}: {' '.join(reason.split())}")
    return "\n".join(lines)


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _shape(shape: dict[str, Any]) -> str:
    tokens = shape["rows"] * shape["length"]
    return f"{tokens} tokens, hidden size {shape['hidden']}, a vocabulary of {shape['vocabulary']}"


def _where(report: dict[str, Any]) -> str:
    return f"`{report['command']}`\n\n{report['dtype']}; {_machine(report)}"


def _machine(report: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    threads = f"{report['threads']} thread{'s' if report['threads'] > 1 else ''}"
    return f"{report['machine']}, {threads}, load before: {report['load']:.1f}; {versions}"


# --- the picture ---------------------------------------------------------------------------------


def picture(report: dict[str, Any], path: Path) -> None:
    """Times relative to the plain computation, a panel for each kind of data."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shape = report["shapes"][0]
    names = [who for who in _measured(shape) if who != "plain"]
    panels: dict[str, dict[str, dict[str, Any]]] = {}
    for problem, rows in shape["results"].items():
        objective, case = problem.rsplit(", ", 1)
        panels.setdefault(case, {})[objective] = rows
    with pyplot.rc_context({"svg.hashsalt": "objdsl", "font.size": 8}):
        figure, all_axes = pyplot.subplots(
            len(panels), figsize=(9, 2.2 * len(panels) + 0.8), sharey=True, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for axes, (case, problems) in zip(all_axes.flat, panels.items(), strict=True):
            for place, who in enumerate(names):
                bars = [
                    (x + 0.8 * (place / len(names) - 0.5), rows[who]["ratio"])
                    for x, rows in enumerate(problems.values())
                    if "ratio" in rows[who]
                ]
                if bars:
                    axes.bar(
                        *zip(*bars, strict=True), 0.8 / len(names), align="edge", label=who,
                        color=f"C{place}",
                    )  # fmt: skip
            axes.axhline(1, color="black", linewidth=0.6)
            axes.set_xticks(range(len(problems)), list(problems))
            axes.set_ylabel("time / plain")
            axes.set_title(case, loc="left")
        legend = all_axes.flat[0].get_legend_handles_labels()
        figure.legend(*legend, ncols=5, loc="outside lower center")
        figure.suptitle(f"The head with an objective: {_shape(shape)}, {report['dtype']}")
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


# --- files ---------------------------------------------------------------------------------------


def publish(path: Path, readme: Path | None = README) -> Iterator[Path]:
    """Writes the page, the picture and the part of the README, if any, that show a report."""
    report = json.loads(path.read_text(encoding="utf-8"))
    page, image = path.with_suffix(".md"), path.with_suffix(".svg")
    page.write_text(text(report) + "\n", encoding="utf-8")
    picture(report, image)
    yield from (page, image)
    if readme is None:
        return
    shown = readme.read_text(encoding="utf-8")
    if markers(path.stem)[0] in shown:
        readme.write_text(with_table(shown, path.stem, short(report)), encoding="utf-8")
        yield readme


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}: python benchmarks/tables.py -->", f"<!-- end of {name} -->"


def with_table(page: str, name: str, table: str) -> str:
    """A page with the table between its markers."""
    start, end = markers(name)
    before, _, rest = page.partition(start)
    return f"{before}{start}\n\n{table}\n\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    for saved in sorted(RESULTS.glob("head-*.json")):
        for written in publish(saved):
            print(f"wrote {written}")
