"""The documentation is true: its code runs, and it has every command."""

from __future__ import annotations

import doctest
import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

import click
import pytest
from click.testing import CliRunner
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from objdsl import driver
from objdsl.cli.app import SECTIONS, main
from objdsl.ir.ops import COUNT, FUNCTIONS, REDUCTIONS, UNARY
from objdsl.lint.run import pages
from objdsl.source import Source
from objdsl.syntax import language
from objdsl.syntax.language import ORDERED, SUBSETS
from objdsl.tex import imported

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = ROOT / "README.md"

# A training run takes minutes: it is run where its output is shown, other tests run the rest.
NOT_RUN = {"train", "plot", "bench"}


def _objective(example: Example) -> None:
    driver.compile_source(Source(example.document.path, str(example.parsed)))
    _written(example)


def _latex(example: Example) -> None:
    imported(Source(example.document.path, str(example.parsed)))
    _written(example)


def _written(example: Example) -> None:
    """A block whose first line is a comment with a file name is written to that file."""
    if named := re.match(r"[#%] (\w+\.\w+)\b", str(example.parsed)):
        Path(named[1]).write_text(str(example.parsed), encoding="utf-8")


def _json(example: Example) -> None:
    driver.written_out(Source(example.document.path, str(example.parsed)))


def _console(example: Example) -> None:
    """`$ objdsl ...` prints the lines below it; other programs must be known ones."""
    for session in re.split(r"^\$ ", str(example.parsed), flags=re.MULTILINE)[1:]:
        line, _, expected = session.partition("\n")
        program, *arguments = shlex.split(line, comments=True)
        if program == "make":
            for target in arguments:
                assert re.search(rf"^{target}:", _makefile(), re.MULTILINE), line
        elif program == "objdsl":
            _command(arguments, expected)
        elif program == "torchrun":
            _command(arguments[arguments.index("objdsl") + 1 :], expected)
        else:
            assert program in {"git", "pip"}, f"what is `{program}`?"


def _command(arguments: list[str], expected: str) -> None:
    if NOT_RUN & {*arguments[:1]} and not expected.strip():
        # Within the context of `main`, whose settings the command keeps once it has met them.
        parent = click.Context(main, **main.context_settings)
        command = main.get_command(parent, arguments[0])
        assert command is not None
        command.make_context(arguments[0], arguments[1:], parent=parent)
        if "--config" in arguments or arguments[0] != "train":
            return
        arguments = [*arguments, "--print-config"]
    result = CliRunner().invoke(main, arguments, prog_name="objdsl")
    assert not expected or doctest.OutputChecker().check_output(
        expected, result.output, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    ), f"$ objdsl {shlex.join(arguments)}\n{result.output}"
    assert result.exit_code in {0, 1}, result.output


def _makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


PARSER = Sybil(
    parsers=[
        SkipParser(),
        PythonCodeBlockParser(),
        CodeBlockParser("py", _written),  # a file
        CodeBlockParser("obj", _objective),
        CodeBlockParser("latex", _latex),
        CodeBlockParser("json", _json),
        CodeBlockParser("yaml", _written),
        CodeBlockParser("bash", _written),
        CodeBlockParser("console", _console),
    ]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_code_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    document = PARSER.parse(page)
    document.namespace.update({name.upper(): find_spec(name) for name in ("trl", "verl")})
    for example in document.examples():
        with suppress(SkipTest):  # what a block needs is not installed here
            example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    blocks = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`\n]*`", "", blocks.sub("", page.read_text(encoding="utf-8")))
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_emitted_code_that_readme_shows_is_what_compile_prints() -> None:
    blocks = re.findall(r"^```text\n(def .*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    printed = CliRunner().invoke(main, ["compile", "grpo"]).output
    assert len(blocks) == 1
    assert blocks[0].removesuffix("    ...\n") in printed


def test_every_code_block_has_a_language() -> None:
    for page in PAGES:
        fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert all(fences[::2]), f"{page.name} has a code block of no language"


def test_every_command_is_documented(compared: Compared) -> None:
    """docs/commands.md is what `--help` prints."""
    compared("commands.md", "\n".join(_reference()))


def test_the_schema_of_findings_is_published(compared: Compared) -> None:
    from objdsl.render.schema import Report

    compared("findings.schema.json", json.dumps(Report.model_json_schema(), indent=2) + "\n")


def test_every_function_is_documented(compared: Compared) -> None:
    """The table in docs/language.md is that of the operators."""
    page = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    before, mark, rest = page.partition("| function | |\n")
    after = rest.partition("\n\n")[2]
    rows = "".join(f"| `{op}(x)` | {UNARY[op].doc} |\n" for op in FUNCTIONS.values())
    compared("language.md", f"{before}{mark}| --- | --- |\n{rows}\n{after}")


def test_editors_know_every_operator(compared: Compared) -> None:
    name = "../grammars/objective.tmLanguage.json"
    grammar = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for scope, names, bracket in (
        ("support.function.reduction", (*REDUCTIONS, *SUBSETS, *ORDERED, COUNT), r"\\["),
        ("support.function", language.FUNCTIONS, r"\\("),
    ):
        start = grammar.index("(", grammar.index(f'"{scope}.objdsl"'))
        end = grammar.index(f")(?=\\\\s*{bracket})", start)
        grammar = f"{grammar[:start]}({'|'.join(names)}{grammar[end:]}"
    compared(name, grammar)


def test_the_schema_of_the_ir_is_published(compared: Compared) -> None:
    from objdsl.ir.schema import Objective

    schema = json.dumps(Objective.model_json_schema())
    document = json.loads(schema, parse_constant=str)  # JSON has no infinity
    compared("ir.schema.json", json.dumps(document, indent=2) + "\n")


def test_every_rule_has_a_page(compared: Compared) -> None:
    """docs/rules is what `objdsl rule` prints."""
    for page in pages():
        compared(f"rules/{page.name}.md", page.page)
    compared("rules/README.md", "\n".join(_index()))
    written = {path.stem for path in (ROOT / "docs" / "rules").glob("*.md")} - {"README"}
    assert written == {page.name for page in pages()}


def _index() -> Iterator[str]:
    yield "# The rules\n"
    yield "What `objdsl check` looks for; `objdsl rule NAME` prints the page.\n"
    yield "| code | rule | severity | claim | |\n| --- | --- | --- | --- | --- |"
    for page in pages():
        link = f"[{page.name}]({page.name}.md)"
        head = f"{page.code} | {link} | {page.severity} | {page.claim.phrase}"
        yield f"| {head} | {_cell(page.summary)} |"
    yield ""


SUM = "mean[p,i] sum[t] (A * log(pi))"
MEASURED = [
    ("no baseline", "A = reward", SUM),
    ("leave-one-out", "A = reward - mean[j != i] reward", SUM),
    ("the group's mean", "A = reward - mean[i] reward", SUM),
    ("1 / length", "A = reward - mean[i] reward", "mean[p,i] mean[t] (A * log(pi))"),
    ("geometric ratio", "A = reward - mean[i] reward", "mean[p,i] (A * geo(pi / old))"),
    ("tokens of the group", "A = reward - mean[i] reward", "mean[p] mean[i,t] (A * log(pi))"),
    ("standard deviation", "A = (reward - mean[i] reward) / (std[i] reward + 1e-6)", SUM),
    ("length-weighted mean", "A = reward - (sum[i] (|y| * reward)) / sum[i] |y|", SUM),
    ("maximum of the group", "A = reward - max[i] reward", SUM),
    ("discount 0.9", "A = togo((t == |y|) * reward, 0.9)", SUM),
    ("live weight", "A = reward", "mean[p,i] sum[t] (pi / old * A * log(pi))"),
    ("live divisor", "r = pi / old", "mean[p,i] sum[t] (reward * r / mean[i,t] r)"),
    ("dual clip for both signs", "A = reward", "mean[p,i] sum[t] max(pi / old * A, 3 * A)"),
]
WEIGHTS = [
    ("none", "1"),
    ("full", "w"),
    ("truncated at 2", "min(w, 2)"),
    ("truncated at 1", "min(w, 1)"),
    ("divided by their mean", "w / mean[i] w"),
    ("divided by the others' mean", "w / mean[j != i] w"),
]


def test_the_biases_are_what_the_audit_measures(compared: Compared) -> None:
    page = (ROOT / "docs" / "biases.md").read_text(encoding="utf-8")
    written, mark, _ = page.partition("## Figures\n")
    compared("biases.md", written + mark + "\n" + "\n".join(_figures()))


def _figures() -> Iterator[str]:
    yield "On policy, with real-valued rewards; means over three random policies.\n"
    yield "| | objective | residual, groups of 2 | of 4 |\n| --- | --- | --- | --- |"
    for name, advantage, goal in MEASURED:
        yield f"| {name} | `{_cell(f'{advantage}; {goal}')}` | {_residuals(advantage, goal)} |"
    yield "\n`objdsl audit FILE --group 2 --vocabulary 3 --horizon 3` reproduces a row.\n"
    goal = "mean[p,i] (sg({}) * A * sum[t] log(pi))"
    yield f"Off policy, for different weights in `{goal.format('...')}`: the logits of the sampler"
    yield "have noise with standard deviation 0.3, and `w = prod[t] (pi / mu)`.\n"
    yield "| weights | | residual, groups of 2 | of 4 |\n| --- | --- | --- | --- |"
    advantage = "A = reward - mean[j != i] reward\nw = prod[t] (pi / mu)"
    for name, weight in WEIGHTS:
        figures = _residuals(advantage, goal.format(weight), "mismatch 0.3")
        yield f"| {name} | `{weight}` | {figures} |"
    yield "\n`--drift 0.3` reproduces a row.\n"


def _residuals(advantage: str, goal: str, policies: str = "on policy") -> str:
    """The residuals for groups of 2 and of 4."""
    from objdsl import loads
    from objdsl.audit import audit

    objective = loads(f"objective measured\n{advantage}\nmaximize {goal}\n")
    drifts = () if policies == "on policy" else (0.3,)
    figures = (
        audit(objective, group=group, drifts=drifts, vocabulary=3, horizon=3)
        .row(policies)
        .residual.mean
        for group in (2, 4)
    )
    return " | ".join(f"{figure:.2g}" if figure > 1e-8 else "0" for figure in figures)


def test_every_setting_and_metric_is_documented(compared: Compared) -> None:
    """docs/training.md ends with tables that are generated from the code."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    written, mark, _ = page.partition("## Settings\n")
    compared("training.md", written + mark + "\n" + "\n".join(_tables()))


Compared = Callable[[str, str], None]


@pytest.fixture
def compared(request: pytest.FixtureRequest) -> Compared:
    """Compares a page of `docs/` with its expected text; `make golden` writes it."""

    def compare(name: str, text: str) -> None:
        if request.config.getoption("--update-golden"):
            (ROOT / "docs" / name).write_text(text, encoding="utf-8")
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text

    return compare


def _tables() -> Iterator[str]:
    from objdsl.runtime.report.metrics import DOCUMENTED
    from objdsl.runtime.settings.config_io import documented

    yield "| setting | default | |\n| --- | --- | --- |"
    for name, default, meaning in documented():
        shown = "" if default is None else f"`{json.dumps(default)}`"
        yield f"| `--{name}` | {shown} | {_cell(meaning)} |"
    yield "\n## Metrics\n"
    yield (
        "Each line of `metrics.jsonl` is a step: these, every `report` of the objective, and "
        "learned numbers as they are after the step.\n"
    )
    yield "| metric | |\n| --- | --- |"
    for name, meaning in DOCUMENTED.items():
        yield f"| `{name}` | {_cell(meaning)} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _reference() -> Iterator[str]:
    yield "# The commands\n"
    yield "What `objdsl COMMAND --help` prints. Exit codes: 0 is clean, 1 is findings,"
    yield "2 is a mistake on the command line or a text that is no objective.\n"
    for section, names in SECTIONS.items():
        yield f"## {section}\n"
        for name in names:
            yield from _help(name.split())


def _help(path: list[str]) -> Iterator[str]:
    shown = CliRunner().invoke(main, [*path, "--help"], prog_name="objdsl", terminal_width=100)
    yield f"### objdsl {' '.join(path)}\n"
    yield f"```text\n{shown.output.rstrip()}\n```\n"
    command: click.Command | None = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from _help([*path, name])
