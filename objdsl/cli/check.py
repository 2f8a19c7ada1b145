"""`objdsl check`: is it an objective, and what is there to say about it?"""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from objdsl.cli.inputs import STDIN, expand, text
from objdsl.cli.output import plural, show, summary
from objdsl.diagnostic import Diagnostic, ObjectiveError, Severity

if TYPE_CHECKING:
    from objdsl.driver import Checked
    from objdsl.lint.select import Selection
    from objdsl.source import Source

FORMATS = ("full", "concise", "json", "github", "sarif")
_MOST_ROUNDS = 10


@click.command(epilog="Example: objdsl check grpo.obj --ignore std-normalisation")
@click.argument("files", nargs=-1, metavar="[FILES]...")
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
    current folder. RULES are names, codes, or beginnings of codes (OBJ3), with commas between
    them. The exit code is 0 if there is nothing to report (notes are shown, and do not count), 1 if
    there is, and 2 if a file is not an objective. Of many files the notes are only counted, but
    with --strict.
    """
    asked = _Asked(_selection(select, ignore, strict), ignore_suppressions, diff, fix, unsafe_fixes)
    names = expand(files)
    every = [_checked(name, asked) for name in names]
    found = [one for checked in every for one in checked.findings]
    suppressed = sum(len(checked.suppressed) for checked in every)
    strict = asked.selection.strict
    if not diff:
        _report(found, suppressed, len(names), format_, output, strict)
    if any(checked.objective is None and checked.findings for checked in every):
        sys.exit(2)
    sys.exit(1 if any(strict or one.severity is not Severity.NOTE for one in found) else 0)


@dataclass(frozen=True)
class _Asked:
    """What the command line wants."""

    selection: Selection
    all: bool  # whatever the comments accept
    diff: bool
    fix: bool
    unsafe: bool

    def check(self, source: Source) -> Checked:
        """The findings that are wanted."""
        from objdsl.driver import check
        from objdsl.lint.run import in_order

        checked = check(source)
        found, accepted = checked.findings, checked.suppressed
        if self.all:
            found, accepted = in_order([*found, *accepted]), []
        wanted = [one for one in found if self.selection.wants(one, source.name)]
        return replace(checked, findings=wanted, suppressed=accepted)


def _selection(select: tuple[str, ...], ignore: tuple[str, ...], strict: bool) -> Selection:
    """The flags over the nearest pyproject.toml."""
    from objdsl.lint.run import registry
    from objdsl.lint.select import ConfigError, checked, configured

    try:
        base = configured(Path.cwd(), registry())
        asked = checked(_split(select), registry(), "--select")
        refused = checked(_split(ignore), registry(), "--ignore")
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    return replace(
        base,
        select=asked or base.select,
        ignore=(*base.ignore, *refused),
        strict=strict or base.strict,
    )


def _split(many: tuple[str, ...]) -> list[str]:
    return [name.strip() for one in many for name in one.split(",") if name.strip()]


def _checked(name: str, asked: _Asked) -> Checked:
    """A file's findings; those that are left after the fixes, if they are made."""
    from objdsl.driver import Checked
    from objdsl.source import Source

    try:
        before = asked.check(text(name))
    except ObjectiveError as error:
        return Checked(Source(name, ""), None, list(error.diagnostics), [])
    if before.objective is None or not (asked.diff or asked.fix or asked.unsafe):
        return before
    after = _fixed(before, asked)
    if asked.diff:
        click.echo(_difference(before.source, after.source), nl=False)
        return before
    _save(name, before.source, after.source)
    return after


def _fixed(checked: Checked, asked: _Asked) -> Checked:
    """The text after its fixes, round by round; a round whose text is no objective is not made."""
    from objdsl.lint.fixes import fixed

    unsafe = asked.unsafe or not asked.fix
    for _ in range(_MOST_ROUNDS):
        source, made = fixed(checked.source, checked.findings, unsafe=unsafe)
        after = asked.check(source)
        if not made or after.objective is None:
            break
        checked = after
    return checked


def _difference(before: Source, after: Source) -> str:
    old, new = (source.text.splitlines(keepends=True) for source in (before, after))
    return "".join(difflib.unified_diff(old, new, before.name, after.name))


def _save(name: str, before: Source, after: Source) -> None:
    if before.text == after.text:
        return
    if name == STDIN or not Path(name).is_file():
        raise click.UsageError(f"{name} is not a file that can be written to; see --diff")
    Path(name).write_text(after.text, encoding="utf-8", newline="\n")


def _report(
    found: list[Diagnostic],
    suppressed: int,
    files: int,
    format_: str,
    output: Path | None,
    strict: bool,
) -> None:
    if format_ == "full" and output is None:
        # Over many files what is worth a note is not worth a page: it is counted.
        shown = [one for one in found if strict or files == 1 or one.severity is not Severity.NOTE]
        show(shown, err=False)
        click.echo(_closing(found, shown, suppressed, files))
        return
    made = _formatted(found, suppressed, format_)
    if output is None:
        click.echo(made, nl=False)
    else:
        output.write_text(made, encoding="utf-8", newline="\n")
        click.echo(f"wrote {output}")


def _closing(found: list[Diagnostic], shown: list[Diagnostic], suppressed: int, files: int) -> str:
    """The last line: how many of what, and what was left out."""
    more = len(found) - len(shown)
    left = [plural(more, "note")] if more else []
    left += [f"{suppressed} suppressed"] if suppressed else []
    out = f" ({', '.join(left)})" if left else ""
    if not shown:
        return f"{plural(files, 'file')} checked, nothing to report{out}"
    return summary(shown, files) + out


def _formatted(found: list[Diagnostic], suppressed: int, format_: str) -> str:
    from objdsl import __version__
    from objdsl.lint.run import registry
    from objdsl.render import formats
    from objdsl.render.terminal import render

    match format_:
        case "concise":
            return formats.concise(found)
        case "github":
            return formats.github(found)
        case "json":
            return formats.as_json(found, suppressed)
        case "sarif":
            pages = {rule.name: rule.doc for rule in registry()}
            return formats.sarif(found, pages, __version__)
    return "".join(f"{render(one)}\n\n" for one in found)
