"""The text of a file is data: no stage reads it as a program, and no terminal obeys it.

Hostile comments, names and paths go through every stage; none may plant an effect, and whatever is
written in another language says exactly what the text says.
"""

from __future__ import annotations

import ast
import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import objdsl
from objdsl import driver
from objdsl.cli.app import main
from objdsl.emit.writer import docstring
from objdsl.errors import ObjectiveError
from objdsl.source import STEERS, Source, visible
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


@pytest.mark.parametrize("comment", COMMENTS)
def test_no_command_obeys_a_comment(comment: str, folder: Path) -> None:
    for k, text in enumerate(_texts(comment)):
        name = f"x{k}.obj"
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        commands = [
            *(("compile", name, "--stage", stage) for stage in STAGES if not k),
            ("compile", name, "--latex"),
            ("diff", name, "grpo"),
            ("fmt", "--diff", name),
            ("check", "--diff", name),
            *(("check", "--output-format", kind, name)
              for kind in ("full", "concise", "json", "github", "sarif")),
        ]  # fmt: skip
        for command in commands:
            output = _run(*command).output
            assert not STEERS.search(output.replace("\x0c", "")), command
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
    tiny = ("--words", "2", "--horizon", "2", "--policies", "1", "--group", "2", "--prompts", "1")
    assert "residual" in _run("audit", "x.obj", *tiny).output
    sizes = ("--tokens", "4", "--hidden", "4", "--words", "8", "--rounds", "1")
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
            if "github" in command:
                assert all(line.startswith("::") for line in output.splitlines())
        assert sorted(path.name for path in folder.iterdir()) == [name]


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
