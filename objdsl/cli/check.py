"""`objdsl check`: is it an objective, and what is there to say about it?"""

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
@click.option("--set", "set_", multiple=True, metavar="NAME=X", help="A hyper-parameter.")
@click.option("--select", multiple=True, metavar="RULES", help="Only these rules.")
@click.option("--ignore", multiple=True, metavar="RULES", help="Not these rules.")
@click.option(
    "--ignore-suppressions", is_flag=True, help="As if no comment of the files accepted a finding."
)
@click.option("--strict", is_flag=True, help="Notes, too, make the exit code 1.")
@click.option(
    "--output-format", "format_", type=click.Choice(FORMATS), default="full", show_default=True,
    help="For people, or for programs.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the findings there.")
@click.option("--diff", is_flag=True, help="Print what the fixes would change, and change nothing.")
@click.option("--fix", is_flag=True, help="Make the fixes that leave the objective as it is.")
@click.option("--unsafe-fixes", is_flag=True, help="Make those, too, that change the objective.")
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

    FILES are files, folders, names of the gallery, or `-` for standard input; without any, the
    current folder. Of a `.json` of `objdsl compile --stage ir` findings show the text that it is in
    the language. RULES are names, codes, or beginnings of codes (OBJ3), with commas between
    them. The exit code is 0 if there is nothing to report (notes are shown, and do not count), 1 if
    there is, and 2 if a file is not an objective. Of many files the notes are only counted, but
    with --strict. With --diff the findings are written only to a file (-o); --diff --fix shows
    the fixes that --fix would make, --diff alone shows all.
    """
    if diff and format_ != "full" and output is None:
        raise click.UsageError(f"--diff prints a diff: say by -o where the {format_} is to go")
    asked = _Asked(
        settings(set_), _rules(select, "--select"), _rules(ignore, "--ignore"), strict,
        ignore_suppressions, diff, fix, unsafe_fixes,
    )  # fmt: skip
    with _few_collections():
        looked_at = [_look(name, asked) for name in expand(files)]
    if diff:
        _show_differences(looked_at)
    if not diff or output is not None:
        _report(looked_at, format_, output)
    if any(one.broken for one in looked_at):
        sys.exit(2)
    sys.exit(1 if any(one.counted for one in looked_at) else 0)


@dataclass(frozen=True)
class _Asked:
    """What the command line wants."""

    settings: Mapping[str, float]
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    strict: bool
    all: bool  # whatever the comments accept
    diff: bool
    fix: bool
    unsafe: bool
    selections: dict[Path, Selection] = field(default_factory=dict)  # by folder, as they are read

    def selection(self, name: str) -> Selection:
        """The flags over the pyproject.toml of a file; of the current folder, for other texts."""
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
        """The findings that are wanted."""
        from objdsl.driver import check
        from objdsl.ir.objective import SettingError
        from objdsl.lint.run import in_order

        try:
            checked = check(source, self.settings)
        except SettingError as error:
            raise click.UsageError(f"{source.name}: {error}") from None
        found, accepted = checked.findings, checked.suppressed
        if self.all:
            found, accepted = in_order([*found, *accepted]), []
        wanted = [one for one in found if selection.wants(one, source.name)]
        return replace(checked, findings=wanted, suppressed=accepted)


@dataclass(frozen=True)
class _Looked:
    """A text before its fixes and after them; if none are made, the two are one."""

    before: Checked
    after: Checked
    fixes: int
    strict: bool

    @property
    def broken(self) -> bool:
        """Whether it is no objective."""
        return self.after.objective is None and bool(self.findings)

    @property
    def findings(self) -> list[Diagnostic]:
        return self.after.findings

    @cached_property
    def counted(self) -> list[Diagnostic]:
        """The findings that the exit code is about."""
        return [one for one in self.findings if self.strict or one.severity is not Severity.NOTE]


def _rules(many: tuple[str, ...], flag: str) -> tuple[str, ...]:
    """The rules that a flag names; an unknown one is a mistake of usage."""
    names = [name.strip() for one in many for name in one.split(",") if name.strip()]
    if not names:
        return ()
    from objdsl.lint.select import SelectionError, checked

    try:
        return checked(names, flag)
    except SelectionError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def _few_collections() -> Iterator[None]:
    """Little of what is made here is garbage before the end, and to look for it takes time."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _look(name: str, asked: _Asked) -> _Looked:
    """The findings of a file, and what its fixes make of it; they are written if that is asked."""
    from objdsl.driver import Checked, mend
    from objdsl.source import Source

    selection = asked.selection(name)

    def check(source: Source) -> Checked:
        return asked.check(source, selection)

    def looked(before: Checked, after: Checked, fixes: int = 0) -> _Looked:
        return _Looked(before, after, fixes, selection.strict)

    try:
        before = check(text(name))
    except ObjectiveError as error:
        before = Checked(Source(name, ""), None, list(error.diagnostics), [])
    if not (asked.diff or asked.fix or asked.unsafe):
        return looked(before, before)
    after, fixes = mend(before, check, unsafe=asked.unsafe or not asked.fix)
    if asked.diff:
        return looked(before, replace(before, source=after.source), fixes)
    if after.objective is None:
        return looked(before, before)
    if fixes:
        if is_ir(name):
            raise click.UsageError(AS_TEXT.format(name))
        if name == STDIN or not Path(name).expanduser().is_file():
            raise click.UsageError(f"{name} is not a file that can be written to; see --diff")
        write(Path(name).expanduser(), after.source.text)
    return looked(before, after, fixes)


def _show_differences(looked_at: list[_Looked]) -> None:
    for one in looked_at:
        verbatim(difference(one.before.source, one.after.source.text))
    made = plural(sum(one.fixes for one in looked_at), "fix", "fixes")
    elsewhere = {name for one in looked_at for name in _bases_to_fix(one.before)}
    others = f"; others are in {', '.join(sorted(elsewhere))}" if elsewhere else ""
    say(f"{made} would be made{others}", err=True)


def _bases_to_fix(checked: Checked) -> set[str]:
    """The texts that a file starts from and that the fixes of its findings would change."""
    fixes = (finding.fix for finding in checked.findings if finding.fix)
    names = {edit.span.source.name for fix in fixes for edit in fix.edits}
    return names - {checked.source.name}


def _report(looked_at: list[_Looked], format_: str, output: Path | None) -> None:
    if format_ == "full" and output is None:
        shown = _worth_a_page(looked_at)
        show(shown, err=False)
        say(_closing(looked_at, shown))
        return
    made = _formatted(looked_at, format_)
    if output is not None:
        write(output, made)
        say(f"wrote {output}", err=True)
    elif format_ == "github":
        annotate(made)
    elif format_ == "concise":
        say(made, nl=False)
    else:
        data(made)


def _worth_a_page(looked_at: list[_Looked]) -> list[Diagnostic]:
    """Over many files what is worth a note is not worth a page: it is counted."""
    if len(looked_at) == 1:
        return looked_at[0].findings
    return [finding for one in looked_at for finding in one.counted]


def _closing(looked_at: list[_Looked], shown: list[Diagnostic]) -> str:
    """The last line: how many of what, and what was left out."""
    files = len(looked_at)
    more = sum(len(one.findings) for one in looked_at) - len(shown)
    suppressed = sum(len(one.after.suppressed) for one in looked_at)
    fixes = sum(one.fixes for one in looked_at)
    left = [plural(more, "note")] if more else []
    left += [f"{fixes} fixed"] if fixes else []
    left += [f"{suppressed} suppressed"] if suppressed else []
    out = f" ({', '.join(left)})" if left else ""
    if not shown:
        return f"{plural(files, 'file')} checked, nothing to report{out}"
    return summary(shown, files) + out


def _formatted(looked_at: list[_Looked], format_: str) -> str:
    from objdsl import __version__
    from objdsl.lint.run import pages
    from objdsl.render import formats
    from objdsl.render.terminal import render

    found = [finding for one in looked_at for finding in one.findings]
    match format_:
        case "concise":
            return formats.concise(found)
        case "github":
            return formats.github(found)
        case "json":
            return formats.as_json(found, sum(len(one.after.suppressed) for one in looked_at))
        case "sarif":
            return formats.sarif(found, {page.name: page.doc for page in pages()}, __version__)
    return "".join(f"{render(one)}\n\n" for one in found) + _closing(looked_at, found) + "\n"
