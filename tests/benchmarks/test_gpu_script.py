"""The script that measures everything on a GPU: its parts are commands that exist, and each part
leaves what it has written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import head

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
printf '%s|' "$@" >> {calls}
echo >> {calls}
case "$*" in *gspo*) exit 3 ;; esac
"""


def test_every_part_is_a_command_that_exists(tmp_path: Path) -> None:
    calls, folder, python = tmp_path / "calls", tmp_path / "figures", tmp_path / "python"
    python.write_text(PYTHON.format(calls=calls))
    python.chmod(0o755)
    (tmp_path / "nvidia-smi").symlink_to("/bin/true")
    run = subprocess.run(
        [ROOT / "benchmarks/gpu.sh", folder],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr  # gspo alone failed
    lines = (folder / "parts.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines if "failed (3)" in line] == ["head-gspo"]
    commands = [line.split("|")[:-1] for line in calls.read_text().splitlines()]
    heads = [command[1:] for command in commands if command[0] == "benchmarks/head.py"]
    objectives = []
    for line in heads:
        options, saved = head.arguments(line)
        objectives += options.objectives
        assert saved is not None and saved.parent == folder and options.device == "cuda"
        assert [(shape.tokens, shape.hidden) for shape in options.shapes] == [(8192, 4096)]
    assert objectives == ["dapo", "gspo", "grpo + k3", "dapo + entropy", "clip_cov"]
    assert any("-m" in command and "gpu" in command for command in commands)
    assert ["benchmarks/training.py", "--rounds", "1", "--save", str(folder)] in commands
