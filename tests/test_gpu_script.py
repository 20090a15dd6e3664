"""`benchmarks/gpu.sh` goes on whatever happens: it may have a GPU for a short time only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from side_by_side import commit_checked_out

SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu.sh"


def run(
    folder: Path, *arguments: str, **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Return what the script did, and what would have been run by a Python that notes it."""
    log, python = folder / "log", folder / "python"
    python.write_text(f"""#!/bin/sh
case "$2" in print*) exec {sys.executable} "$@";; esac
printf '%s\\n' "$*" >> {log}
case "$*" in
    *side_by_side*) exec {sys.executable} "$@";;
    *synthesis.py*) exit 1;;
    *training.py*) sleep ${{SLEEP:-60}};;
esac
""")
    python.chmod(0o755)
    done = subprocess.run(
        [SCRIPT, *arguments],
        env=os.environ | {"PYTHON": str(python), "LIMIT": "0.01"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, log.read_text().splitlines()


@pytest.mark.parametrize("root", ["", "datasets"])
def test_a_part_that_fails_or_takes_too_long_costs_no_other(root: str, tmp_path: Path) -> None:
    done, commands = run(tmp_path, ROOT=root)
    assert done.returncode == 1
    parts = ["where", "test_on_a_gpu", "synthesis", "training", "compiled"]
    parts += ["accuracy"] * 4 * bool(root)
    for command, part in zip(commands, parts, strict=True):
        assert part in command


def test_it_says_first_where_it_runs(tmp_path: Path) -> None:
    """That line alone is run, without its limit in seconds."""
    done, _ = run(tmp_path, LIMIT="1", SLEEP="0")
    _, said, then, *_ = done.stdout.splitlines()
    assert f"commit {commit_checked_out()}" in said
    assert "test_on_a_gpu" in then


def test_wheels_are_installed_without_a_network_connection(tmp_path: Path) -> None:
    (tmp_path / "a.whl").touch()
    _, commands = run(tmp_path, str(tmp_path))
    assert "pip install --quiet --no-index" in commands[0]
    assert commands[0].endswith("a.whl")
