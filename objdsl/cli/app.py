"""`objdsl`: the commands by name, and their common error handling.

Click, and not Typer, which is built on the same parser: importing Typer takes longer than checking
a file (0.3 s against 0.04 s).
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import click

from objdsl.cli.output import WriteError, show
from objdsl.diagnostic import near
from objdsl.errors import ObjectiveError
from objdsl.source import visible

# The module of each command, in the order of the help; imported on use.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Write": ("check", "explain", "audit", "rule", "fmt", "import", "gallery"),
    "Compile": ("compile", "diff", "compare", "bench"),
    "Train": ("train", "plot"),
    "Other": ("env",),
}

# Modules that checking and compiling do not need, and the extra that installs them.
TRAIN = "torch transformers yaml matplotlib numpy datasets safetensors peft"
OPTIONAL = {**dict.fromkeys(TRAIN.split(), "train"), "vllm": "vllm"}


# The errors of a disk that takes no more data.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# The memory at the end is freed with the process; collecting garbage in it first takes nearly as
# long as to check a file.
atexit.register(gc.freeze)


class Commands(click.Group):
    """A group that imports a command on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = {"import": "imports"}.get(cmd_name, cmd_name)  # a keyword of Python is no name
        command = getattr(import_module(f"objdsl.cli.{module}"), module)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            guess = near(name, self.list_commands(ctx))
            ctx.fail(
                f"there is no command `{name}`" + (f"; did you mean `{guess}`?" if guess else "")
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in section]
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (name, command.get_short_help_str(80))
                        for name, command in commands
                        if command
                    ]
                )

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _visible():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _visible():
            return self._invoke(ctx)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ObjectiveError as error:
            show(error.diagnostics)
            sys.exit(2)
        except RecursionError:
            # Passes follow definitions by recursion; formulas of papers are far from this limit.
            from objdsl.elaborate import SHALLOWER

            message = f"the definitions of this file are nested too deeply: {SHALLOWER}"
            raise click.UsageError(message) from None
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in OPTIONAL:
                raise
            raise click.ClickException(
                f"this needs {missing}, which is not installed here: "
                f"pip install 'objdsl[{OPTIONAL[missing]}]'"
            ) from None
        except BrokenPipeError:
            # `objdsl ... | head`: the reader has closed the pipe. Python would complain at exit.
            _no_more_output()
            sys.exit(0)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            _no_more_output()
            message = f"cannot write the output: {(error.strerror or str(error)).lower()}"
            raise WriteError(message) from None


@contextmanager
def _visible() -> Iterator[None]:
    """Escape usage errors: they repeat arguments, which may be file names."""
    try:
        yield
    except click.ClickException as error:
        error.message = visible(error.message)  # type: ignore[misc]
        raise


def _no_more_output() -> None:
    """Drop what the standard output has in its buffer: writing it at exit would fail again."""
    with suppress(OSError):  # in a test it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: objdsl gallery",
)
@click.version_option(package_name="objdsl", message="%(prog)s %(version)s")
def main() -> None:
    """Write an RL objective as the paper prints it; check it, compile it, train with it."""
