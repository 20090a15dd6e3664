"""What README and docs/ say is tried: code blocks run as written, links lead somewhere.

The blocks run in the order of the documents, in one folder with a few images of the demo, as a
reader would go through them. Only training is made smaller, by options added to the commands.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from anomalib_anoseg.__main__ import COMMANDS

PROJECT = Path(__file__).parents[1]
DOCUMENTS = [
    PROJECT / "README.md",
    *(
        PROJECT / f"docs/{name}.md"
        for name in ("tuning", "thresholds", "deployment", "operation", "results")
    ),
    PROJECT / "docs/images.md",
    PROJECT / "docs/speed.md",
    PROJECT / "docs/troubleshooting.md",
]
# The beginning of a command, and why it is not run here.
NOT_RUN = {
    "make": "installs, or runs for many minutes; CI runs make itself",
    "pip install": "needs a package index",
    "python -m build": "test_edge.py runs it, and the next four",
    "python -m venv edge": "",
    "edge/bin/": "",
    "cd edge/": "",
    "rm -f cache.json": "",
    "anomalib train --model AnoSeg --data MVTecAD": "needs MVTec AD and two GPUs",
    "torchrun": "needs two machines",
    "python benchmarks/compare.py": "trains for three hours",
    "python benchmarks/false_alarms.py": "needs what accuracy.py has trained",
    "for config in configs/benchmark": "needs MVTec AD; test_benchmark_configs.py builds models",
    "anomalib-anoseg infer --watch": "runs until it is stopped; test_watch.py runs and stops it",
    "anomalib-anoseg infer --every": "needs a camera; test_watch.py has a stand-in",
    "python benchmarks/line.py": "takes several minutes",
    "anomalib-anoseg report": "needs results of the two before; test_report.py runs it",
}
if shutil.which("cmake") is None:
    NOT_RUN |= dict.fromkeys(("cmake", "build/cpp/inspect"), "needs a C++ compiler and CMake")
# Stands for anomalib's command: what trains is made smaller.
SMALL = f"""#!/bin/sh
case "$1" in train)
    set -- "$@" --trainer.max_steps 2 --data.num_workers 0;;
esac
exec {sysconfig.get_path("scripts")}/anomalib "$@"
"""


class Block(NamedTuple):
    """A code block of a document."""

    language: str
    code: str


def blocks(document: Path) -> list[Block]:
    text = document.read_text()
    if document.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(*block) for block in found]


def commands(code: str) -> list[str]:
    """Return the commands of a block of bash, each on one line."""
    return re.sub(r" *\\\n *", " ", code).splitlines()


def runs_here(command: str) -> bool:
    return not command.startswith(tuple(NOT_RUN))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, demo_root: Path) -> Path:
    """Return a folder with the data that the documents name, and a command that trains briefly."""
    folder = tmp_path_factory.mktemp("documents")
    part = demo_root / "part"
    for source, name in (
        ("train/good", "good"), ("test/hole", "defective"), ("ground_truth/hole", "masks"),
        ("test/missing", "new"), ("test/good", "new_good"),
    ):  # fmt: skip
        shutil.copytree(part / source, folder / "images" / name)
    for size in ("part", "part_2048"):  # not drawn at that size, which would take minutes
        shutil.copytree(part, folder / "datasets/SurfaceDemo" / size)
    for name in ("configs", "benchmarks", "examples"):
        (folder / name).symlink_to(PROJECT / name)
    (folder / "bin").mkdir()
    script = folder / "bin/anomalib"
    script.write_text(SMALL)
    script.chmod(0o755)
    return folder


def run(workplace: Path, *command: str) -> None:
    scripts = sysconfig.get_path("scripts")
    environment = os.environ | {
        "PATH": os.pathsep.join([str(workplace / "bin"), scripts, os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        command, cwd=workplace, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.xdist_group("documents")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_code_runs_as_written(document: Path, workplace: Path) -> None:
    for language, code in blocks(document):
        if language == "bash":
            script = "\n".join(filter(runs_here, commands(code)))
            run(workplace, "bash", "-euo", "pipefail", "-c", script)
        else:
            file = workplace / "example.py"
            file.write_text(code.replace("max_epochs=200", "max_epochs=1"))
            run(workplace, sys.executable, str(file))
    for model in workplace.glob("results/*/weights/openvino/model.xml"):
        assert model.with_suffix(".bin").stat().st_size > 1e5


def test_every_document_and_language_is_known() -> None:
    files = {PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")}
    assert files == {*DOCUMENTS, PROJECT / "docs/MODEL_CARD.md"}
    assert blocks(PROJECT / "docs/MODEL_CARD.md") == []
    assert {block.language for file in DOCUMENTS for block in blocks(file)} == {"bash", "python"}


def test_what_is_not_run_is_still_there() -> None:
    lines = [
        line
        for file in DOCUMENTS
        for block in blocks(file)
        if block.language == "bash"
        for line in commands(block.code)
    ]
    for beginning in NOT_RUN:
        assert any(line.startswith(beginning) for line in lines), beginning
    assert sum(map(runs_here, lines)) > 10


def test_examples_that_train_have_a_main_guard() -> None:
    """Where processes are spawned, each of those that load images imports the user's script."""
    for document in DOCUMENTS:
        for language, code in blocks(document):
            if language == "python" and ".train(" in code:
                # Without one it would look for images that are not there.
                exec(code, {"__name__": "__mp_main__"})  # noqa: S102


@pytest.mark.parametrize(
    "document", [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")], ids=lambda path: path.name
)
def test_links_and_pictures_exist(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_what_the_documents_link_to_is_in_the_sdist() -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    shipped = {*settings["targets"]["sdist"]["include"], "/LICENSE"}  # hatchling adds that itself
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (PROJECT / document).read_text()):
            assert f"/{Path(target).parts[0]}" in shipped, target


def test_commands_of_the_notebooks_exist() -> None:
    """Their text is not run, unlike their code."""
    known = ("anomalib train ", *(f"anomalib-anoseg {name} " for name in COMMANDS))
    found = [
        line
        for notebook in PROJECT.glob("notebooks/*.ipynb")
        for block in blocks(notebook)
        for line in commands(block.code)
    ]
    assert found
    for line in found:
        assert line.startswith(known), line


def test_make_targets_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for document in (*DOCUMENTS, PROJECT / "CONTRIBUTING.md"):
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets, document


def test_lines_are_as_wide_as_an_editor() -> None:
    """But those of tables and code."""
    others = (PROJECT / "CONTRIBUTING.md", PROJECT / "CHANGELOG.md")
    for document in (*DOCUMENTS, *others):
        text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
        wide = [line for line in text.splitlines() if len(line) > 120 and line[0] != "|"]
        assert not wide, document


def test_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= 130
