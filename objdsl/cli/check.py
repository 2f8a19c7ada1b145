"""`objdsl check`: is it an objective, and what is there to say about it?"""

from __future__ import annotations

import difflib
import sys
from dataclasses import replace
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
@click.option("--strict", is_flag=True, help="Notes, too, make the exit code 1.")
@click.option(
    "--output-format", "format_", type=click.Choice(FORMATS), default="full", show_default=True
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the findings there.")
@click.option("--diff", is_flag=True, help="Print what the fixes would change, and change nothing.")
@click.option("--fix", is_flag=True, help="Make the fixes that leave the objective as it is.")
@click.option("--unsafe-fixes", is_flag=True, help="Make those, too, that change the objective.")
def check(
    files: tuple[str, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
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
    chosen = _selection(select, ignore, strict)
    names = expand(files)
    every = [_checked(name, chosen, diff, fix, unsafe_fixes) for name in names]
    found = [one for checked in every for one in checked.findings]
    suppressed = sum(len(checked.suppressed) for checked in every)
    if not diff:
        _report(found, suppressed, len(names), format_, output, chosen.strict)
    if any(checked.objective is None for checked in every):
        sys.exit(2)
    counting = [one for one in found if chosen.strict or one.severity is not Severity.NOTE]
    sys.exit(1 if counting else 0)


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


def _checked(name: str, chosen: Selection, diff: bool, fix: bool, unsafe: bool) -> Checked:
    """A file's findings, after the fixes that are asked for."""
    from objdsl.driver import Checked, check
    from objdsl.source import Source

    try:
        before = check(text(name))
    except ObjectiveError as error:
        return Checked(Source(name, ""), None, list(error.diagnostics), [])
    after = _wanted(before, chosen, name)
    if after.objective is not None and (diff or fix or unsafe):
        after = _fixed(after, chosen, name, unsafe=unsafe or not fix)
        if diff:
            click.echo(_difference(before.source, after.source), nl=False)
            return _wanted(before, chosen, name)
        _save(name, before.source, after.source)
    return after


def _wanted(checked: Checked, chosen: Selection, name: str) -> Checked:
    found = [one for one in checked.findings if chosen.wants(one, name)]
    return replace(checked, findings=found)


def _fixed(checked: Checked, chosen: Selection, name: str, *, unsafe: bool) -> Checked:
    """The text after its fixes, round by round; a round whose text is no objective is not made."""
    from objdsl.driver import check
    from objdsl.lint.fixes import fixed

    for _ in range(_MOST_ROUNDS):
        source, made = fixed(checked.source, checked.findings, unsafe=unsafe)
        after = check(source)
        if not made or after.objective is None:
            break
        checked = _wanted(after, chosen, name)
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
        click.echo(_closing(found, suppressed, files))
        return
    made = _formatted(found, suppressed, format_)
    if output is None:
        click.echo(made, nl=False)
    else:
        output.write_text(made, encoding="utf-8", newline="\n")
        click.echo(f"wrote {output}")


def _closing(found: list[Diagnostic], suppressed: int, files: int) -> str:
    accepted = f" ({suppressed} suppressed)" if suppressed else ""
    if not found:
        return f"{plural(files, 'file')} checked, nothing to report{accepted}"
    return summary(found, files) + accepted


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
