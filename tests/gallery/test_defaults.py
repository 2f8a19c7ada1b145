"""docs/defaults.md is what the entries of frameworks compute, and its figures are theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

import objdsl
from helpers import defaults_page as defaults
from objdsl import frameworks
from objdsl.compare import compare
from objdsl.diagnostic import Severity
from objdsl.objectives import gallery
from objdsl.source import Source

PAGE = Path(__file__).resolve().parents[2] / "docs" / "defaults.md"


def test_the_page_is_generated(request: pytest.FixtureRequest) -> None:
    """`make golden` measures what has changed, and writes the page."""
    written = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    figures, of = defaults.figures_of(written)
    update = request.config.getoption("--update-golden")
    if update and of != defaults.digest():
        figures = {default.entry: defaults.measured(default) for default in defaults.DEFAULTS}
    page = defaults.page(figures)
    if update:
        PAGE.write_text(page, encoding="utf-8")
    assert of == defaults.digest() or update, "the figures are old"
    assert written == page or update


def test_figures_are_what_the_audit_measures() -> None:
    """Those of Tinker, which are quick."""
    tinker = defaults.DEFAULTS[-1]
    figures, _ = defaults.figures_of(PAGE.read_text(encoding="utf-8"))
    assert figures[tinker.entry] == defaults.measured(tinker)


def test_the_changes_remove_findings() -> None:
    """And add none but notes: slime's mean over responses becomes one over tokens."""
    for default in defaults.DEFAULTS:
        before = severities(gallery.find(f"frameworks/{default.entry}"))
        assert bool(default.settings) == bool(default.statements)
        if default.settings:
            after = severities(Source("changed.obj", default.changed))
            assert len(after) < len(before), default.framework
            new = {after[name] for name in after.keys() - before.keys()}
            assert new <= {Severity.NOTE}, default.framework


def severities(source: Source) -> dict[str, Severity]:
    """Those of the findings, by name."""
    return {finding.name: finding.severity for finding in defaults.findings(source)}


def test_trl_computes_what_the_page_changes() -> None:
    settings = {"scale_rewards": "none", "loss_type": "dr_grpo", "max_completion_length": 1024}
    for default, options in zip(defaults.DEFAULTS, ({}, {"use_vllm": True}), strict=False):
        imported = frameworks.from_config({**settings, **options}).text
        result = compare(objdsl.loads(imported), objdsl.loads(default.changed), steps=2)
        assert result.same, str(result)
