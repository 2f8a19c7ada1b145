"""`objdsl audit`: the exact bias of an objective's gradient."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from objdsl.cli.inputs import text
from objdsl.cli.output import data, has_color, say
from objdsl.cli.python import like_options, passed_settings

if TYPE_CHECKING:
    from objdsl.audit.columns import Given


@click.command(epilog="Example: objdsl audit grpo --set beta=0")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--picture", type=click.Path(path_type=Path), help="Also draw it, as a PNG or an SVG."
)
@like_options
@click.option("--set", "settings", multiple=True, metavar="NAME=X", help="Set a hyper-parameter.")
@click.option(
    "--given",
    multiple=True,
    metavar="NAME=X",
    help="A column that the file declares with `given`: a number, or `random`.",
)
@click.option("--step", type=click.IntRange(0), help="The rollout, where the objective reads it.")
@click.option("--group", type=click.IntRange(1), help="Responses per prompt.")
@click.option("--prompts", type=click.IntRange(1), help="Prompts per optimizer step.")
@click.option("--vocabulary", type=click.IntRange(2), help="Size of the vocabulary, EOS included.")
@click.option("--horizon", type=click.IntRange(1), help="Maximum length of a response, in tokens.")
@click.option(
    "--policies",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of random policies to take the mean and the worst over.",
)
@click.option(
    "--drift",
    "drifts",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    default=(0.05, 0.3),
    show_default=True,
    help="Noise between the logits of two policies, for the off-policy rows.",
)
@click.option(
    "--samples",
    type=click.IntRange(2),
    help="Average this many random steps (with error bars) instead of summing all.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of policies and rewards."
)
def audit(
    file: str,
    as_json: bool,
    picture: Path | None,
    settings: tuple[str, ...],
    given: tuple[str, ...],
    like: str,
    advantages: str | None,
    passed: tuple[str, ...],
    **options: Any,
) -> None:
    """Measure the exact bias and variance of an objective's gradient.

    The compiled objective runs on every outcome of an optimizer step of a tiny tabular policy, and
    the expected gradient is compared with that of the expected reward, and of the divergence from a
    reference. A residual of 0 is an unbiased direction. Policies on hidden layers are compared with
    the reward that their own responses would get.

    FILE is a file, a gallery name, `-` for standard input, or a Python loss, `my_losses.py:loss`,
    whose file is run, and whose gradient is that of autograd.
    """
    from objdsl import driver
    from objdsl.audit import UnauditableError, audit_function, function_of
    from objdsl.audit import audit as measure
    from objdsl.losses.advantages import Advantages
    from objdsl.losses.python import PythonLoss, is_python
    from objdsl.objective import Objective, load

    params = {name: _number(name, x) for name, x in map(_pair, settings)}
    columns: dict[str, Given] = {
        name: "random" if x == "random" else _number(name, x) for name, x in map(_pair, given)
    }
    try:
        if is_python(file):
            if settings or given or options.pop("step") is not None:
                raise click.UsageError("--set, --given and --step are not for a loss in Python")
            source = None
            loss = PythonLoss(file, like, settings=passed_settings(passed))
            if loss.takes_advantages:
                name = advantages or "grpo"
                source = Advantages(name, load(name))
            result = audit_function(function_of(loss, source), **options)
        else:
            formula = driver.compile_source(text(file))
            result = measure(Objective(formula, params), given=columns, **options)
    except UnauditableError as error:
        raise click.ClickException(str(error)) from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None

    if picture is not None:
        from objdsl.audit.picture import save

        try:
            save(result, picture)
        except ImportError as error:
            raise click.ClickException(
                f"{error}; install it with: pip install matplotlib"
            ) from None
        say(f"wrote {picture}", err=True)
    if as_json:
        data(result.to_json())
    elif has_color(sys.stdout):
        from rich.console import Console

        from objdsl.audit.report import show

        show(result, Console(highlight=False, force_terminal=True))
    else:
        say(str(result), nl=False)


def _pair(setting: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise click.UsageError(f"write {setting!r} as NAME=X")
    return name.strip(), value.strip()


def _number(name: str, x: str) -> float:
    try:
        return float(x)
    except ValueError:
        raise click.UsageError(f"{name} must be a number, not {x!r}") from None
