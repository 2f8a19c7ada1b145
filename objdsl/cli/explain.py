"""`objdsl explain`: what an objective does, in words."""

from __future__ import annotations

import shlex

import click

from objdsl import driver
from objdsl.cli.inputs import text
from objdsl.cli.output import plural, say
from objdsl.objectives import gallery


@click.command(epilog="Example: objdsl explain grpo.obj")
@click.argument("file")
@click.option(
    "--latex", is_flag=True, help="Print the formula and its derivative in LaTeX, for a paper."
)
def explain(file: str, latex: bool) -> None:
    """Explain an objective: its formula and gradient weight, and what they do.

    Shows what divides a reward and whether that depends on the response, the direction of the
    expected gradient, which divergence a penalty descends, which mismatch between policies is
    corrected, and the nearest gallery entries. FILE is a file, a gallery name, or `-`.
    """
    from objdsl.analysis.explain import nearest, sections
    from objdsl.analysis.facts import facts_of
    from objdsl.ir.layout import folded
    from objdsl.ir.phases import phases_of
    from objdsl.lint.rules.not_judged import undecided
    from objdsl.lint.run import judged

    source = text(file)
    objective = driver.compile_source(source)
    for weights in (False, True):
        say(driver.mathematics(objective, weights=weights, latex=latex).rstrip() + "\n")
    if latex:
        return
    phased = phases_of(objective)
    every = phased.every
    for phase in every:
        if len(every) > 1:
            say(f"{phase}\n".capitalize())
        facts = facts_of(phase.objective, phase.step, phase.around)
        for section in sections(facts, judged(facts)):
            say(section.title)
            width = max(len(left) for left, _ in section.lines)
            for left, right in section.lines:
                say(folded(f"    {left:<{width}}  {right}".rstrip()))
            say()
    for finding in undecided(phased):
        say(folded(f"Note: {finding.message}") + "\n")
    others = [
        driver.bundled(name) for name in gallery.names() if not name.startswith("frameworks/")
    ]
    say("Nearest in the gallery")
    for relative in nearest(objective, others):
        how = f", except for {plural(len(relative.changes), 'line')}"
        say(f"    {relative.name}{how if relative.changes else ': the same mathematics'}")
        for change in relative.changes:
            for sign, line in (("-", change.left), ("+", change.right)):
                if line is not None:
                    say(folded(f"        {sign} {line}"))
        for there, here in relative.renamed.items():
            say(f"        {there} is called {here} here")
    findings = driver.check(source).findings
    say(f"\n{plural(len(findings), 'finding')}: objdsl check {shlex.quote(file)}")
