"""The package as users get it: the contents of the wheel, what it runs, and what checking
imports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from objdsl.cli.compile import STAGES

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"grammars", "objectives", "runtime"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_listed(project: dict[str, Any]) -> None:
    """A folder that is not in the list works from a checkout, but is missing from the wheel."""
    packages = {
        ".".join(("objdsl", *init.parent.relative_to(root).parts))
        for root, folders in ((ROOT / "objdsl", ["."]), (ROOT, TOP_LEVEL))
        for folder in folders
        for init in (root / folder).rglob("__init__.py")
    }
    setuptools = project["tool"]["setuptools"]
    assert setuptools["packages"] == sorted(packages)
    assert setuptools["package-dir"] == {"objdsl": "objdsl"} | {
        package: package.removeprefix("objdsl.")
        for package in packages
        if package.removeprefix("objdsl.") in TOP_LEVEL
    }


def test_every_folder_with_code_is_a_package() -> None:
    folders = {
        path.parent for name in ("objdsl", *TOP_LEVEL) for path in (ROOT / name).rglob("*.py")
    }
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_locks_pin_what_the_project_asks_for(project: dict[str, Any]) -> None:
    """The lock files are installed without resolving: nothing else would notice a gap."""
    from packaging.requirements import Requirement

    pins = _pins("cpu.lock") | _pins("dev.lock")
    extras = project["project"]["optional-dependencies"]
    asked = [
        *project["project"]["dependencies"],
        *extras["train"],
        *(line for line in extras["vllm-cpu"] if not line.startswith("objdsl[")),
        *extras["dev"],
    ]
    unmet = []
    for line in asked:
        requirement = Requirement(line)
        if pins.get(_normal(requirement.name), "0") not in requirement.specifier:
            unmet.append(line)
    assert unmet == []


def test_no_package_is_locked_twice() -> None:
    cpu, dev, peers = (_pins(f"{name}.lock") for name in ("cpu", "dev", "peers"))
    assert not cpu.keys() & dev.keys()
    assert not (cpu | dev).keys() & peers.keys()


def _pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    pinned = [line.partition(";")[0].split("==") for line in lines if not line.startswith("#")]
    return {_normal(package): version.strip() for package, version in pinned}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tree: building in place would leave a `build` folder behind."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    for name in ("objdsl", *TOP_LEVEL):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(tree))
    (built,) = folder.glob("objdsl-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    _pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    return target


def test_wheel_holds_every_source_and_data_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {"objdsl/py.typed"}
    for folder, prefix in [("objdsl", "objdsl"), *((name, f"objdsl/{name}") for name in TOP_LEVEL)]:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".obj", ".lark", ".json", ".toml"}:
                wanted.add(f"{prefix}/{path.relative_to(ROOT / folder).as_posix()}")
    assert "objdsl/grammars/objective.lark" in wanted
    assert "objdsl/objectives/grpo.obj" in wanted
    assert sorted(wanted - held) == []


def test_installed_wheel_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = _objdsl(
        "-c", "import objdsl.syntax; print(objdsl.syntax.__file__)", at=installed, cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(installed)
    assert "gallery" in _objdsl("-m", "objdsl", "--help", at=installed, cwd=tmp_path)
    assert "grpo" in _objdsl("-m", "objdsl", "gallery", at=installed, cwd=tmp_path)
    assert "maximize" in _objdsl(
        "-m", "objdsl", "gallery", "show", "grpo", at=installed, cwd=tmp_path
    )
    assert "1 file checked" in _objdsl("-m", "objdsl", "check", "rloo", at=installed, cwd=tmp_path)
    script = (installed / "bin" / "objdsl").read_text(encoding="utf-8")
    assert "from objdsl.cli.app import main" in script


def test_checking_imports_no_torch_and_no_heavy_library(installed: Path, tmp_path: Path) -> None:
    """`objdsl check` takes a fraction of a second; each of these adds as much again, or more."""
    program = """
import sys
from objdsl.cli.app import main
try:
    main(["check", "grpo"], standalone_mode=False)
except SystemExit as exit:
    assert exit.code == 0
print(sorted({"torch", "transformers", "numpy", "pydantic", "rich.console"} & {*sys.modules}))
"""
    assert _objdsl("-c", program, at=installed, cwd=tmp_path).strip().endswith("[]")


def test_what_the_base_install_runs(installed: Path, tmp_path: Path) -> None:
    """Without the extra `train` there is neither torch nor NumPy."""
    program = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None
from objdsl import driver
from objdsl.objectives import gallery
from objdsl.cli.app import main
from objdsl.ir.evaluate import Batch, evaluate

for line in sys.argv[1:]:
    try:
        main(line.split(), standalone_mode=False)
    except SystemExit as exit:
        assert exit.code == 0, line
formula = driver.compile_source(gallery.find("reinforce"))
batch = Batch([0, 0], [2, 1], {"reward": [1.0, 0.0], "log_pi": [[-1.0, -2.0], [-3.0]]})
(value,) = evaluate([formula.goal], batch, {"b": 0.0})
assert value == -1.5
"""
    lines = [
        "check grpo", "check --output-format sarif grpo", "explain grpo", "explain dapo",
        "rule", "rule std-normalisation", "diff grpo grpo", "gallery ls", "gallery show grpo",
        "gallery cp grpo", "fmt grpo.obj", "check grpo.obj", "compile --latex grpo", "env",
        *(f"compile --stage {stage} grpo" for stage in STAGES),
    ]  # fmt: skip
    _objdsl("-c", program, *lines, at=installed, cwd=tmp_path)


def test_the_python_face_names_what_it_lacks(installed: Path, tmp_path: Path) -> None:
    program = """
import sys
sys.modules["torch"] = None
import objdsl
try:
    objdsl.load("grpo")
except ImportError as error:
    print(error)
"""
    output = _objdsl("-c", program, at=installed, cwd=tmp_path)
    assert "objdsl.load needs PyTorch" in output and "pip install 'objdsl[train]'" in output


def _objdsl(*arguments: str, at: Path, cwd: Path) -> str:
    # Isolated from the editable install that the tests themselves run on.
    return _run(sys.executable, *arguments, cwd=cwd, env={**os.environ, "PYTHONPATH": str(at)})


def _pip(*arguments: str) -> None:
    _run(sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments)


def _run(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
