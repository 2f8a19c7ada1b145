"""`objdsl check`: report what is wrong, biased or fragile in objectives."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from objdsl.cli.inputs import AS_TEXT, STDIN, expand, is_ir, settings, text
from objdsl.cli.output import (
    annotate,
    data,
    difference,
    plural,
    say,
    show,
    summary,
    verbatim,
    write,
)
from objdsl.diagnostic import Diagnostic, Severity
from objdsl.errors import ObjectiveError
from objdsl.frozen import dataclass

if TYPE_CHECKING:
    from objdsl.driver import Checked
    from objdsl.lint.select import Selection
    from objdsl.source import Source

FORMATS = ("full", "concise", "json", "github", "sarif")


@click.command(epilog="Example: objdsl check grpo.obj --ignore std-normalisation")
@click.argument("files", nargs=-1, metavar="[FILES]...")
@click.option("--set", "set_", multiple=True, metavar="NAME=X", help="Set a hyper-parameter.")
@click.option("--select", multiple=True, metavar="RULES", help="Report only these rules.")
@click.option("--ignore", multiple=True, metavar="RULES", help="Do not report these rules.")
@click.option(
    "--ignore-suppressions", is_flag=True, help="Report findings even where a comment accepts them."
)
@click.option("--strict", is_flag=True, help="Exit with 1 if there are notes, too.")
@click.option(
    "--output-format", "format_", type=click.Choice(FORMATS), default="full", show_default=True,
    help="Format of the findings: the first two are for people, the others for programs.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the findings to this file."
)
@click.option(
    "--diff", is_flag=True, help="Print the changes that fixes would make, without making them."
)
@click.option("--fix", is_flag=True, help="Apply the fixes that do not change the objective.")
@click.option(
    "--unsafe-fixes", is_flag=True, help="Apply also the fixes that change the objective."
)
def check(
    files: tuple[str, ...],
    set_: tuple[str, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    ignore_suppressions: bool,
    strict: bool,
    format_: str,
    output: Path | None,
    diff: bool,
    fix: bool,
    unsafe_fixes: bool,
) -> None:
    """Check objectives: what is wrong, biased or fragile in them, and why.

    FILES are files, folders, gallery names, or `-` for standard input; the default is the current
    folder. For a `.json` file from `objdsl compile --stage ir`, findings point into the text that
    it is translated to. RULES are names, codes, or prefixes of codes (OBJ3), separated by commas.

    The exit code is 0 if there is nothing to report, 1 if there is, and 2 if a file is not an
    objective. Notes count only with --strict; without it, they are shown for a single file, and
    only counted for several. With --diff, findings are printed only to a file (-o); --diff --fix
    shows the fixes that --fix would apply, --diff alone shows all.
    """
    if diff and format_ != "full" and output is None:
        raise click.UsageError(
            f"--diff prints a diff: use -o to name a file for the {format_} findings"
        )
    options = _Options(
        settings(set_), _rules(select, "--select"), _rules(ignore, "--ignore"), strict,
        ignore_suppressions, diff, fix, unsafe_fixes,
    )  # fmt: skip
    with _few_collections():
        results = [_check_file(name, options) for name in expand(files)]
    if diff:
        _show_differences(results)
    if not diff or output is not None:
        _report(results, format_, output)
    if any(result.broken for result in results):
        sys.exit(2)
    sys.exit(1 if any(result.counted for result in results) else 0)


@dataclass(frozen=True)
class _Options:
    """The options of the command line."""

    settings: Mapping[str, float]
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    strict: bool
    all: bool  # also what comments accept
    diff: bool
    fix: bool
    unsafe: bool
    selections: dict[Path, Selection] = field(default_factory=dict)  # by folder, as they are read

    def selection(self, name: str) -> Selection:
        """The flags, on top of the pyproject.toml of a file (or of the current folder)."""
        from objdsl.lint.select import SelectionError, configured

        path = Path(name).expanduser()
        folder = path.resolve().parent if path.is_file() else Path.cwd()
        if folder not in self.selections:
            try:
                base = configured(folder)
            except SelectionError as error:
                raise click.UsageError(str(error)) from None
            self.selections[folder] = base.with_flags(self.select, self.ignore, self.strict)
        return self.selections[folder]

    def check(self, source: Source, selection: Selection) -> Checked:
        """The selected findings."""
        from objdsl.driver import check
        from objdsl.ir.objective import SettingError
        from objdsl.lint.run import in_order

        try:
            checked = check(source, self.settings)
        except SettingError as error:
            raise click.UsageError(f"{source.name}: {error}") from None
        findings, accepted = checked.findings, checked.suppressed
        if self.all:
            findings, accepted = in_order([*findings, *accepted]), []
        selected = [x for x in findings if selection.wants(x, source.name)]
        return replace(checked, findings=selected, suppressed=accepted)


@dataclass(frozen=True)
class _Result:
    """A text before and after its fixes; both are the same if none was applied."""

    before: Checked
    after: Checked
    fixes: int
    strict: bool

    @property
    def broken(self) -> bool:
        """Whether the text is not an objective."""
        return self.after.objective is None and bool(self.findings)

    @property
    def findings(self) -> list[Diagnostic]:
        return self.after.findings

    @cached_property
    def counted(self) -> list[Diagnostic]:
        """The findings that decide the exit code."""
        return [x for x in self.findings if self.strict or x.severity is not Severity.NOTE]


def _rules(values: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """The rules that a flag names; an unknown rule is a usage error."""
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if not names:
        return ()
    from objdsl.lint.select import SelectionError, checked

    try:
        return checked(names, flag)
    except SelectionError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def _few_collections() -> Iterator[None]:
    """Collect garbage rarely: little is freed before the end, and collections take time."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _check_file(name: str, options: _Options) -> _Result:
    """Check a file, and apply its fixes if the options ask for them."""
    from objdsl.driver import Checked, mend
    from objdsl.source import Source

    selection = options.selection(name)

    def check(source: Source) -> Checked:
        return options.check(source, selection)

    def result(before: Checked, after: Checked, fixes: int = 0) -> _Result:
        return _Result(before, after, fixes, selection.strict)

    try:
        before = check(text(name))
    except ObjectiveError as error:
        before = Checked(Source(name, ""), None, list(error.diagnostics), [])
    if not (options.diff or options.fix or options.unsafe):
        return result(before, before)
    after, fixes = mend(before, check, unsafe=options.unsafe or not options.fix)
    if options.diff:
        return result(before, replace(before, source=after.source), fixes)
    if after.objective is None:
        return result(before, before)
    if fixes:
        if is_ir(name):
            raise click.UsageError(AS_TEXT.format(name))
        if name == STDIN or not Path(name).expanduser().is_file():
            raise click.UsageError(f"{name} is not a file that can be written to; use --diff")
        write(Path(name).expanduser(), after.source.text)
    return result(before, after, fixes)


def _show_differences(results: list[_Result]) -> None:
    for result in results:
        verbatim(difference(result.before.source, result.after.source.text))
    fixes = plural(sum(result.fixes for result in results), "fix", "fixes")
    elsewhere = {name for result in results for name in _bases_to_fix(result.before)}
    others = f"; more are in {', '.join(sorted(elsewhere))}" if elsewhere else ""
    say(f"{fixes} would be applied{others}", err=True)


def _bases_to_fix(checked: Checked) -> set[str]:
    """The base files that the fixes of a file's findings would change."""
    fixes = (finding.fix for finding in checked.findings if finding.fix)
    names = {edit.span.source.name for fix in fixes for edit in fix.edits}
    return names - {checked.source.name}


def _report(results: list[_Result], format_: str, output: Path | None) -> None:
    if format_ == "full" and output is None:
        shown = _worth_a_page(results)
        show(shown, err=False)
        say(_closing(results, shown))
        return
    text = _formatted(results, format_)
    if output is not None:
        write(output, text)
        say(f"wrote {output}", err=True)
    elif format_ == "github":
        annotate(text)
    elif format_ == "concise":
        say(text, nl=False)
    else:
        data(text)


def _worth_a_page(results: list[_Result]) -> list[Diagnostic]:
    """The findings to print in full: for several files, without notes, which are counted."""
    if len(results) == 1:
        return results[0].findings
    return [finding for result in results for finding in result.counted]


def _closing(results: list[_Result], shown: list[Diagnostic]) -> str:
    """The last line: the number of findings, and of those that are not shown."""
    files = len(results)
    more = sum(len(result.findings) for result in results) - len(shown)
    suppressed = sum(len(result.after.suppressed) for result in results)
    fixes = sum(result.fixes for result in results)
    left = [plural(more, "note")] if more else []
    left += [f"{fixes} fixed"] if fixes else []
    left += [f"{suppressed} suppressed"] if suppressed else []
    out = f" ({', '.join(left)})" if left else ""
    if not shown:
        return f"{plural(files, 'file')} checked, nothing to report{out}"
    return summary(shown, files) + out


def _formatted(results: list[_Result], format_: str) -> str:
    from objdsl import __version__
    from objdsl.lint.run import pages
    from objdsl.render import formats
    from objdsl.render.terminal import render

    findings = [finding for result in results for finding in result.findings]
    match format_:
        case "concise":
            return formats.concise(findings)
        case "github":
            return formats.github(findings)
        case "json":
            return formats.as_json(
                findings, sum(len(result.after.suppressed) for result in results)
            )
        case "sarif":
            return formats.sarif(findings, {page.name: page.doc for page in pages()}, __version__)
    full = "".join(f"{render(finding)}\n\n" for finding in findings)
    return full + _closing(results, findings) + "\n"
