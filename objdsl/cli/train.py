"""`objdsl train`: reinforcement learning with an objective."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from objdsl.cli.output import say
from objdsl.diagnostic import near

if TYPE_CHECKING:
    from objdsl.runtime.processes.signals import StopRequest
    from objdsl.runtime.settings.config import Config


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: objdsl train dapo --set eps_high=0.3 --learner.lr 1e-4 --resume auto",
)
@click.argument(
    "arguments", nargs=-1, type=click.UNPROCESSED, metavar="[FILE]... [--SETTING VALUE]..."
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="YAML",
    help="Read settings from a file; those on the command line override them.",
)
@click.option(
    "--set",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter of the objective. May be repeated.",
)
@click.option(
    "--resume",
    metavar="auto|PATH",
    help="Resume from the last checkpoint of a run; `auto` resumes the newest run, or starts one.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train each FILE with N seeds on the same data, one run per folder, and compare them.",
)
@click.option(
    "--allow-changed",
    is_flag=True,
    help="Resume even if the objective, the task or the model is a different one.",
)
@click.option(
    "--print-config", is_flag=True, help="Print every setting with its meaning, and exit."
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Describe the run, try two steps with a tiny model, and exit.",
)
def train(
    arguments: tuple[str, ...],
    file: Path | None,
    params: tuple[str, ...],
    resume: str | None,
    seeds: int | None,
    allow_changed: bool,
    print_config: bool,
    dry_run: bool,
) -> None:
    """Train a model with an objective.

    FILE is a file or a gallery name (default: grpo). Several are trained one after the other, and
    compared by their curves and a table. Without any settings, a small model learns
    two-digit addition in a few minutes on a CPU. Every setting is an option, such as `--model.name
    Qwen/Qwen3-0.6B`; --print-config lists them.
    """
    from objdsl.runtime.settings.config import ConfigError
    from objdsl.runtime.settings.config_io import commented_yaml, read_config

    objectives, flags = _split(arguments)
    bare = [flag for flag in arguments if _is_assignment(flag)]
    given = dict(_assignments(params))
    if objectives:
        given["objective"] = objectives[0]
    _refuse_near_options(flags)
    try:
        config = read_config(file, [*flags, *(f"--{flag}" for flag in bare)], given)
    except ConfigError as error:
        _fail(error.problems, 2)
    if bare:
        raise click.UsageError(f"a setting starts with `--`: write `--{bare[0]}`")
    if print_config:
        say(commented_yaml(config), nl=False)
        return

    # Read by OpenMP when torch is imported. The threads of two engines take turns here; those that
    # wait by spinning take the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Reward functions may be in the current folder, not only in an installed package.
    sys.path.append(os.getcwd())
    from objdsl.runtime.data.rewards import RewardError
    from objdsl.runtime.engines.sampler import SamplerError
    from objdsl.runtime.learning.optimizer import TrainingError
    from objdsl.runtime.processes.ranks import RankError
    from objdsl.runtime.processes.signals import stop_requests
    from objdsl.runtime.run.loop import train as run
    from objdsl.runtime.storage.sealed_folder import CheckpointError, SaveError

    # Also around the error messages: a launcher whose rank has died ends the others at once.
    with stop_requests() as stop:
        try:
            if dry_run:
                from objdsl.runtime.run.dry_run import dry_run as describe

                for name in objectives or [config.objective]:
                    for line in describe(config.model_copy(update={"objective": name})):
                        if _rank() == 0:
                            say(line)
                return
            if len(objectives) > 1 or seeds is not None:
                names = objectives or [config.objective]
                stopped = _several(names, config, seeds or 1, resume, allow_changed, stop)
            else:
                result = run(config, resume=resume, allow_changed=allow_changed, stop=stop)
                stopped = result.stopped
        except ConfigError as error:
            _fail(error.problems, 2)
        except (RankError, RewardError, SamplerError, SaveError, TrainingError) as error:
            _fail([str(error)], 1)
        except (CheckpointError, FileNotFoundError) as error:
            _fail([str(error)], 2)
        except OSError as error:  # a folder that cannot be written to, a disk that is full
            _fail([str(error)], 1)
    if stopped is not None:
        # The exit code of a program ended by a signal, after which a scheduler restarts it.
        sys.exit(128 + stopped)


def _several(
    objectives: Sequence[str],
    config: Config,
    seeds: int,
    resume: str | None,
    allow_changed: bool,
    stop: StopRequest,
) -> int | None:
    """Trains and compares several runs; returns the signal that stopped them, if one did."""
    from objdsl.runtime.run.several import several

    if resume not in (None, "auto"):
        raise click.UsageError("several runs are resumed by `--resume auto`")

    def tell(line: str) -> None:
        if _rank() == 0:
            say(line)

    runs = several(objectives, config, seeds)
    stopped = runs.train(tell, resume=resume, allow_changed=allow_changed, stop=stop)
    if stopped is None and _rank() == 0:
        for line in runs.report():
            say(line)
    return stopped


def _split(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """The objectives and the settings, in any order."""
    files: list[str] = []
    flags: list[str] = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        if _is_assignment(argument):
            continue
        if not argument.startswith("--"):
            files.append(argument)
            continue
        flags.append(argument)
        # The next argument is its value, unless it is a setting itself: then the value is missing.
        if "=" not in argument and rest and not rest[0].startswith("--"):
            flags.append(rest.popleft())
    return files, flags


def _is_assignment(argument: str) -> bool:
    """Whether it is `learner.lr=1e-6`, as Hydra takes it, and no file."""
    return not argument.startswith("-") and "=" in argument and not os.path.exists(argument)


def _assignments(params: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in params:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"`--set {text}`: a parameter is set as `--set eps=0.1`")
        yield f"params.{name.strip()}", value.strip()


def _refuse_near_options(flags: Iterable[str]) -> None:
    """Report `--resum auto` as a misspelt option, not as an unknown setting."""
    from objdsl.runtime.settings.config import Config
    from objdsl.runtime.settings.foreign import pointer

    options = [option.removeprefix("--") for param in train.params for option in param.opts]
    for flag in flags:
        name = flag.partition("=")[0].removeprefix("--")
        ours = name in Config.model_fields or pointer((name.replace("-", "_"),), "", ()) is not None
        if flag.startswith("--") and "." not in name and not ours:
            guess = near(name, [*options, *Config.model_fields])
            if guess in options:
                raise click.UsageError(f"there is no option `--{name}`; did you mean `--{guess}`?")


def _rank() -> int:
    """The rank of this process under `torchrun`."""
    return int(os.environ.get("RANK", "0"))


def _fail(problems: Iterable[str], code: int) -> NoReturn:
    who = "error" if _rank() == 0 else f"error in process {_rank()}"
    for problem in problems:
        say(f"{who}: {problem}", err=True)
    sys.exit(code)
