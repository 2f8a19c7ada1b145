"""The text of a file is data: no stage runs it as a program, and it cannot steer a terminal.

Hostile comments, names and paths go through every stage; none may have an effect, and whatever is
written in a different language says exactly what the text says.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import objdsl
from helpers.samples import thinned
from objdsl import driver
from objdsl.cli.app import main
from objdsl.emit.writer import docstring
from objdsl.errors import ObjectiveError
from objdsl.source import STEERS, Source, visible, without_commands
from objdsl.syntax.parse import parse

PLANT = "open('planted', 'w').write('x')"
LINE_ENDS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
COMMENTS = (
    f'A paper"""; {PLANT}; """, eq. 3',
    f"A paper''';{PLANT};'''",
    f'\\"""; {PLANT}; """',
    f'{{{PLANT}}} {{0}} %s %(x)s %n $x ${{x}}',
    'ends in a quote"',
    'ends in quotes """',
    "ends in a backslash\\",
    r"\xi \underline{x} \N{DASH} \u12 \U1 \x1 \777 \input{/etc/passwd} \write18{touch planted}",
    "$(touch planted) `touch planted` ; touch planted | touch planted && touch planted",
    "::error file=a.obj::planted",
    "##[error]planted",
    "##vso[task.setvariable variable=x]planted ##teamcity[planted] ###[command]planted",
    "</code></pre><script>planted</script> ]]> -->",
    "[bold red]rich[/bold red] [link=file:///]x[/link]",
    "%0A::error::planted%0D%25",
    "$\\href{javascript:planted}{x}$ \\end{aligned} $$",
    "- {yaml: [planted]} !!python/object/apply:os.system ['touch planted']",
    "'; DROP TABLE planted; --",
    "tl.store(planted) \"\"\"\n@triton.jit".replace("\n", "\x0c"),
    *(f"x{end}{PLANT}" for end in LINE_ENDS),
    *(f"x {mark} y" for mark in ("\x1b[31mred\x1b]0;title\x07", "\u202eevil\u202c", "\u2066x")),
    *(f"x {mark} y" for mark in ("\0", "\x07", "\x7f", "\x9b31m", "\ufeff", "\U000e0041")),
    "x \ud800 y",
)  # fmt: skip
FORMULA = """objective hostile
param eps = 0.2
A = reward - mean[i] reward
maximize mean[p,i,t] surrogate(pi / old, A, 1 - eps, 1 + eps)
report failed = mean[p,i] (1 - reward)
"""


def _texts(comment: str) -> Iterator[str]:
    """A formula with the comment wherever a comment may stand."""
    yield f"# {comment}\n{FORMULA}"
    lines = FORMULA.splitlines()
    yield "\n".join([f"{line}  # {comment}" for line in lines]) + "\n"
    yield f"{FORMULA}# objdsl: ignore[length-weight] {comment}\n# objdsl: ignore[{comment}] why\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def _run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments, prog_name="objdsl")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


ANNOTATIONS = {"error", "warning", "notice"}


def _commands(log: str) -> set[str]:
    """What the runners of GitHub, Azure and TeamCity would read as commands, unknown ones too."""
    names = set()
    for line in re.split(r"\r\n?|\n", log):
        name, separator, _ = line.lstrip().removeprefix("::").partition("::")
        if line.lstrip().startswith("::") and separator and name[:1] not in ("", ":"):
            names.add(name.split(" ")[0])
        names |= {opener for opener in ("##[", "##vso[", "##teamcity[") if opener in line}
    return names


def _step() -> dict[str, object]:
    reward = torch.tensor([1.0, 0.0, 0.0, 1.0])
    log_pi = torch.log(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)))
    mask = torch.ones(4, 3, dtype=torch.bool)
    return {"log_pi": log_pi, "log_old": log_pi - 0.1, "reward": reward, "prompt": [0, 0, 1, 1]} | {
        "mask": mask
    }


STAGES = ("tree", "ir", "weights", "plan", "torch", "triton")


@pytest.mark.parametrize("comment", COMMENTS)
def test_a_comment_is_never_read_as_a_program(comment: str, folder: Path) -> None:
    expected: dict[str, torch.Tensor] = {}
    for text in (FORMULA, *_texts(comment)):
        try:
            objective = objdsl.loads(text)
        except ObjectiveError as error:
            # Characters that nobody sees are refused, and a line end ends a comment.
            assert any(x in text for x in LINE_ENDS[1:]) or STEERS.search(text) or "\n" in comment
            assert not STEERS.search(str(error))
            continue
        out = objective(**_step())
        expected = expected or {"loss": out.loss, **out.reports}
        torch.testing.assert_close({"loss": out.loss, **out.reports}, expected)
        for layout in ("padded", "packed"):
            ast.parse(objective.source(layout))
        title = ast.get_docstring(ast.parse(objective.source()), clean=False)
        assert title is not None and title.startswith("hostile")
        if text.startswith("# "):
            assert comment.split("\n")[0].replace("\r", "\n").split("\n")[0].strip(" #") in title
        ast.parse(driver.triton_kernel(objective.formula).source)
        assert "planted" not in driver.mathematics(objective.formula, latex=True)
    assert expected
    assert not list(folder.iterdir())


@pytest.mark.parametrize("comment", thinned(COMMENTS, 2))
def test_no_command_obeys_a_comment(
    comment: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for k, text in enumerate(_texts(comment)):
        name = f"x{k}.obj"
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        commands = [
            *(("compile", name, "--stage", stage) for stage in STAGES if not k),
            ("compile", name, "--latex"),
            ("diff", name, "grpo"),
            ("fmt", "--diff", name),
            ("check", "--diff", name),
            ("gallery", "show", f"./{name}"),
            *(("check", "--output-format", kind, name)
              for kind in ("full", "concise", "json", "github", "sarif")),
        ]  # fmt: skip
        for command in commands:
            output = _run(*command).output
            assert not STEERS.search(output.replace("\x0c", "")), command
            assert _commands(output) <= (ANNOTATIONS if "github" in command else set()), command
            if "github" in command:
                started = [line for line in output.splitlines() if line.strip()]
                assert all(
                    line.startswith(("::error ", "::warning ", "::notice ")) for line in started
                )
                assert not any(line.startswith("::error file=a.obj") for line in started)
            if "json" in command or "sarif" in command:
                json.loads(output)
        assert not (folder / "planted").exists()


@pytest.mark.parametrize("comment", COMMENTS[:6])
def test_what_takes_longer_obeys_none_either(comment: str, folder: Path) -> None:
    (folder / "x.obj").write_text(next(_texts(comment)))
    tiny = (
        "--vocabulary",
        "2",
        "--horizon",
        "2",
        "--policies",
        "1",
        "--group",
        "2",
        "--prompts",
        "1",
    )
    assert "residual" in _run("audit", "x.obj", *tiny).output
    sizes = ("--tokens", "4", "--hidden", "4", "--vocabulary", "8", "--rounds", "1")
    assert "fused" in _run("bench", "x.obj", *sizes).output
    assert _run("compile", "x.obj", "-o", "x.py").exit_code == 0
    names: dict[str, object] = {}
    exec(compile((folder / "x.py").read_text(encoding="utf-8"), "x.py", "exec"), names)
    assert callable(names["objective"])
    assert _run("explain", "x.obj").exit_code == 0
    assert _run("fmt", "x.obj").exit_code == 0
    assert comment in (folder / "x.obj").read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["x.obj", "x.py"]


@pytest.mark.parametrize(
    "name",
    [
        "a b.obj", "$(touch planted).obj", "`touch planted`.obj", "a;touch planted.obj", "-x.obj",
        "a\nb.obj", "a\x1b[31mb.obj", "a\u202eb.obj", "a::error::b.obj", "a%0Ab,c:d.obj",
        "a\n::error::b.obj", "a\n \t::Add-Mask::b.obj", "a##[error]b.obj", "##vso[x]b.obj",
        '"""; open("planted", "w"); """.obj', "{x}%s.obj", "a\x85b\u2028.obj",
    ],
)  # fmt: skip
def test_the_name_of_a_file_is_data_too(name: str, folder: Path) -> None:
    for text in (FORMULA, f"{FORMULA}param eps = 3\nmaximize )\n"):
        Path(f"./{name}").write_text(text)
        for command in (
            ("check", f"./{name}"),
            *(("check", "--output-format", kind, f"./{name}")
              for kind in ("concise", "json", "github", "sarif")),
            ("compile", f"./{name}"),
            ("explain", f"./{name}"),
            ("fmt", "--diff", f"./{name}"),
            ("fmt", "--check", f"./{name}"),
            ("check", "--diff", f"./{name}"),
            ("compile", f"./{name}", "--stage", "nothing"),
            ("gallery", "show", f"./{name}x"),
        ):  # fmt: skip
            output = _run(*command).output
            assert not STEERS.search(output), (command, output)
            assert _commands(output) <= (ANNOTATIONS if "github" in command else set()), command
            if "github" in command:
                assert all(line.startswith("::") for line in output.splitlines())
        assert sorted(path.name for path in folder.iterdir()) == [name]


PLANTED = "##[error]planted"


@pytest.mark.parametrize(
    "runner", thinned(["", "GITHUB_ACTIONS", "TEAMCITY_VERSION", "TF_BUILD"], 2)
)
def test_what_a_program_reads_is_exact_except_in_a_log(
    runner: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{FORMULA}x  =  1  # {PLANTED}\n"
    (folder / "x.obj").write_text(text)
    for name in ("GITHUB_ACTIONS", "TF_BUILD", "TEAMCITY_VERSION"):
        monkeypatch.delenv(name, raising=False)
    if runner:
        monkeypatch.setenv(runner, "1")
    for command in (
        ("gallery", "show", "./x.obj"),
        ("fmt", "--diff", "x.obj"),
        ("compile", "x.obj", "--stage", "torch"),
    ):
        exact = _led_into_a_file(folder, *command)
        assert (PLANTED in exact) == (command[0] != "compile")
        assert _run(*command).stdout == (without_commands(exact) if runner else exact)
    assert _led_into_a_file(folder, "gallery", "show", "./x.obj") == text


def _led_into_a_file(folder: Path, *command: str) -> str:
    with (folder / "out").open("w+") as file:
        subprocess.run(
            [sys.executable, "-m", "objdsl", *command], stdout=file, stderr=subprocess.DEVNULL
        )
        file.seek(0)
        return file.read()


def test_json_holds_no_command_and_says_the_same(folder: Path) -> None:
    name = "##[error] ::x::.obj"
    (folder / name).write_text(f"# {PLANTED}\n{FORMULA}x = 1 / 0  # {PLANTED}\n")
    for kind in ("sarif", "json"):
        output = _run("check", "--output-format", kind, f"./{name}").stdout
        assert not _commands(output)
        _run("check", "--output-format", kind, f"./{name}", "-o", "report")
        assert json.loads(output) == json.loads((folder / "report").read_text(encoding="utf-8"))
    assert json.loads(output)["findings"][0]["location"]["file"] == name
    comments = _run("compile", f"./{name}", "--stage", "tree").stdout
    assert not _commands(comments) and "##[" in json.dumps(json.loads(comments))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("##[error]x", "#\ufffd[error]x"),
        ("a ##vso[x] ###[y]", "a #\ufffdvso[x] ##\ufffd[y]"),
        ("##teamcity[x]", "#\ufffdteamcity[x]"),
        ("::error::x", ":\ufffderror::x"),
        ("a\n\t ::error::x\n::stop-commands::y", "a\n\t :\ufffderror::x\n:\ufffdstop-commands::y"),
        ("a\r::error::x", "a\r:\ufffderror::x"),
        ("a ::error::", "a ::error::"),
        (" ::: x.obj:1:2", " ::: x.obj:1:2"),
        ("# ## [x] ##x", "# ## [x] ##x"),
    ],
)
def test_commands_of_a_runner(text: str, shown: str) -> None:
    assert without_commands(text) == shown
    assert not _commands(shown)


def test_usage_errors_hold_no_command(folder: Path) -> None:
    for arguments in (
        ("--x\n::error::y",), ("x\n::error::y",), ("check", "--x\n::error::y"),
        ("gallery", "show", "x\n::error::y"), ("check", "a##[error]"),
    ):  # fmt: skip
        assert not _commands(_run(*arguments).output), arguments


def test_a_command_that_is_shown_can_be_pasted(folder: Path) -> None:
    (folder / "$(touch planted).obj").write_text(FORMULA)
    assert "objdsl check '$(touch planted).obj'" in _run("explain", "$(touch planted).obj").output


@pytest.mark.parametrize("text", ["", *COMMENTS, 'a"""', "\\", "\\\\", '"', '\\"', "a\nb", "é ∑"])
def test_a_docstring_is_the_text(text: str) -> None:
    assert ast.literal_eval(docstring(text)) == text
    docstring(text).encode("utf-8")  # also where the text holds half a character


def test_what_steers_is_what_unicode_says() -> None:
    steering = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    for k in range(sys.maxunicode + 1):
        if unicodedata.category(chr(k)) in steering and chr(k) not in "\t\n":
            assert visible(chr(k)) == "\N{REPLACEMENT CHARACTER}", hex(k)
    plain = "".join(chr(k) for k in range(0x20, 0x7F)) + "\t\né ε ∑ 語 \U0001f600"
    assert visible(plain) == plain


@pytest.mark.parametrize("char", ["\x1b", "\u202e", "\u2028", "\x85", "\ufffb", "\U000e0041"])
def test_a_character_that_nobody_sees_is_refused(char: str) -> None:
    with pytest.raises(ObjectiveError, match="invisible character"):
        parse(Source("x.obj", f"# a{char}b\n{FORMULA}"))


def test_the_command_line_prints_in_one_place() -> None:
    """Whatever is printed passes `visible`, unless it is for a file."""
    for path in Path(objdsl.cli.__file__).parent.glob("*.py"):
        if path.name == "output.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            assert not (is_call and node.func.attr in ("echo", "secho")), (
                f"{path.name}:{node.lineno}"
            )
