"""docs/gallery is what the files of the gallery say, and its figures are of their formulas."""

from __future__ import annotations

from pathlib import Path

import pytest

import objdsl
from helpers import gallery_pages
from objdsl.objectives import gallery

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "gallery"


def written(name: str) -> str:
    path = FOLDER / gallery_pages.file_name(name)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_every_entry_has_a_page(request: pytest.FixtureRequest) -> None:
    """`make golden` measures what has changed, and writes the pages."""
    update = request.config.getoption("--update-golden")
    for name in gallery.names():
        figures, of = gallery_pages.figures_of(written(name))
        if update and of != gallery_pages.digest(name):
            figures = gallery_pages.measured(name)
        page = gallery_pages.page(name, figures)
        if update:
            (FOLDER / gallery_pages.file_name(name)).write_text(page, encoding="utf-8")
        assert of == gallery_pages.digest(name) or update, f"the figures of {name} are old"
        assert written(name) == page
    if update:
        (FOLDER / "README.md").write_text(gallery_pages.index(), encoding="utf-8")
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == gallery_pages.index()
    pages = {gallery_pages.file_name(name) for name in gallery.names()}
    assert {path.name for path in FOLDER.glob("*.md")} == pages | {"README.md"}


def test_figures_are_what_the_audit_measures() -> None:
    """Two entries are measured: different ones whenever formulas change."""
    exact = [name for name in gallery.names() if "noise" not in objdsl.load(name).columns]
    for name in sorted(exact, key=gallery_pages.digest)[:2]:
        assert gallery_pages.figures_of(written(name))[0] == gallery_pages.measured(name)
