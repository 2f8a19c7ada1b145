"""Which version of a framework is installed, and whether its loss is the one that was read."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from objdsl.codes import error
from objdsl.errors import ObjectiveError
from objdsl.source import Source, Span


def comment(
    package: str,
    version: str,
    digests: Mapping[str, str],
    functions: Sequence[str],
    source: Source,
    defaults: Callable[[str], Sequence[str]] | None = None,
    tree: str = "",
) -> str:
    """A remark on the installed version, where it is not the one that was read; else nothing.

    Args:
        package: its name as an installed distribution.
        version: the one that was read.
        digests: of `functions`, by file.
        functions: the names of the functions that compute the loss and the advantages.
        source: the configuration, for the error.
        defaults: the settings whose defaults are not those that were read, in the text of `tree`.
        tree: a file with the defaults, where they do not stand in the code.

    Raises:
        ObjectiveError: another version is installed, whose loss is not the one that was read.
    """
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        return ""
    if installed.version == version:
        return ""
    changed = [
        file for file, digest in digests.items() if _digest(installed, file, functions) != digest
    ]
    if defaults is not None:
        changed += defaults(_text(installed, tree))
    if not changed:
        return f"{package} {installed.version} is installed, and its loss is that of {version}"
    message = f"{package} {installed.version} is installed, whose loss was not read"
    help = f"{', '.join(changed)} differs from that of {version}; install that version"
    raise ObjectiveError([error("unreadable-config", message, Span(source, 0, 0), help=help)])


def _digest(installed: Distribution, file: str, functions: Sequence[str]) -> str:
    text = _text(installed, file)
    return digest(text, functions) if text else ""


def _text(installed: Distribution, file: str) -> str:
    try:
        return open(str(installed.locate_file(file)), encoding="utf-8").read()
    except OSError:
        return ""


def digest(text: str, functions: Sequence[str]) -> str:
    """A hash of the named functions of a module: of their code, not of comments and docstrings."""
    definitions = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name in functions:
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
            definitions.append(ast.dump(node))
    return hashlib.sha256("\n".join(definitions).encode()).hexdigest()[:16]
