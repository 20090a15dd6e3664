"""`benchmarks/gpu.sh` goes on whatever happens: it may have a GPU for ten minutes only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu.sh"


def run(folder: Path, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """Return the status, and what would have been run by a Python that notes it."""
    log, python = folder / "log", folder / "python"
    python.write_text(f"""#!/bin/sh
case "$2" in print*) exec {sys.executable} "$@";; esac
printf '%s\\n' "$*" >> {log}
case "$*" in *synthesis.py*) exit 1;; *training.py*) sleep 60;; esac
""")
    python.chmod(0o755)
    done = subprocess.run(
        [SCRIPT, *arguments],
        env=os.environ | {"PYTHON": str(python), "LIMIT": "0.01"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, log.read_text().splitlines()


@pytest.mark.parametrize("root", ["", "datasets"])
def test_a_part_that_fails_or_takes_too_long_costs_no_other(root: str, tmp_path: Path) -> None:
    status, commands = run(tmp_path, ROOT=root)
    assert status == 1
    parts = ["versions", "test_on_a_gpu", "synthesis", "training", "compiled"]
    parts += ["accuracy"] * 4 * bool(root)
    for command, part in zip(commands, parts, strict=True):
        assert part in command


def test_wheels_are_installed_without_a_network_connection(tmp_path: Path) -> None:
    (tmp_path / "a.whl").touch()
    _, commands = run(tmp_path, str(tmp_path))
    assert "pip install --quiet --no-index" in commands[0]
    assert commands[0].endswith("a.whl")
