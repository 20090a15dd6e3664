"""The computer of the line: installed without torch and anomalib, or with nothing but C++.

Oracle: what ``infer`` writes in this environment. The commands are those of docs/deployment.md.
"""

import csv
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openvino
import pytest
import torch
from conftest import photographs, segmenter
from openvino import opset13 as ops
from packaging.requirements import Requirement
from PIL import Image
from test_documents import Block, blocks, commands
from test_export_command import save
from test_plugin import copy_source

from anomalib_anoseg.export.command import export
from anomalib_anoseg.inference.command import infer

PROJECT = Path(__file__).parents[1]
SIZES = ((64, 64), (150, 97), (40, 201))  # equal to the map, enlarged by no whole number, oblong
COMPILERS = shutil.which("cmake") and (shutil.which("c++") or shutil.which("g++"))


def block(word: str) -> Block:
    """Return the code block of the document with this word."""
    (found,) = (b for b in blocks(PROJECT / "docs/deployment.md") if word in b.code)
    return found


class Line(NamedTuple):
    """What is there before, and what ``infer`` says in the full environment."""

    model: Path
    images: Path
    results: Path


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Return an OpenVINO model that calls half of the images and pixels defective."""
    folder = tmp_path_factory.mktemp("line")
    torch.manual_seed(0)
    path = save(segmenter(seed=0), folder / "model.ckpt")
    assert export(path, output=folder) == 0
    found = Line(folder / "weights/openvino/model.xml", folder / "images", folder / "results")
    found.images.mkdir()
    for number in range(6):
        height, width = SIZES[number % 3]
        pixels = photographs(1, height=height, width=width)[0].movedim(0, -1).numpy()
        image = Image.fromarray((pixels * 255).round().astype(np.uint8))
        image.save(found.images / f"{number}.ppm")
    assert infer(found.model, str(found.images), found.results, precision="f32") == 0
    return found


def rows(results: Path) -> dict[str, dict[str, str]]:
    with (results / "results.csv").open(newline="") as table:
        return {row["file"]: row for row in csv.DictReader(table)}


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_the_edge_asks_for_what_the_project_asks_for() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    bounds = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    lines = (PROJECT / "requirements-edge.txt").read_text().splitlines()
    edge = [Requirement(line) for line in lines if not line.startswith("#")]
    assert len(edge) >= 6
    for requirement in edge:
        if requirement.name != "jsonargparse":  # which comes with anomalib
            assert requirement.specifier == bounds[requirement.name], requirement.name


@pytest.mark.slow
@pytest.mark.xdist_group("plugin")
def test_infer_without_torch_and_anomalib(line: Line, tmp_path: Path) -> None:
    """As the document says, from a package index; on a computer without one there is no edge."""
    clone = copy_source(tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euc", command], cwd=clone, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    for command in commands(block("requirements-edge.txt").code):
        if command.startswith("edge/bin/anomalib-anoseg"):
            break
        plain = command.partition("#")[0]
        done = run(plain + (" --no-isolation" if "build" in plain else ""))
        if "--requirement" in plain and "(from versions: none)" in done.stderr:
            pytest.skip("no package index")
        assert done.returncode == 0, done.stderr
    (site,) = (clone / "edge/lib").glob("python*/site-packages")
    assert not [name for name in ("torch", "anomalib", "scipy") if (site / name).exists()]
    installed = megabytes(clone / "edge")
    assert installed < 480
    assert run(block("rm -f").code).returncode == 0
    assert megabytes(clone / "edge") < min(400, installed - 60)
    results = tmp_path / "edge"
    done = run(
        f"edge/bin/anomalib-anoseg infer --model {line.model} --input {line.images} "
        f"--output {results} --precision f32"
    )
    assert done.returncode == 0, done.stderr
    for path in line.results.rglob("[!.]*.*"):
        same = results / path.relative_to(line.results)
        assert same.read_bytes() == path.read_bytes(), path.name
    done = run(f"edge/bin/anomalib-anoseg page --ckpt_path {line.model} --data Folder")
    assert (done.returncode, done.stderr) == (
        2,
        "error: page needs torch: install the package as a whole\n",
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the C++ example, built with the headers and libraries of the wheel."""
    build = tmp_path_factory.mktemp("cpp")
    cmake = Path(openvino.__file__).parent / "cmake"
    for command in (
        ["cmake", "-S", PROJECT / "examples/cpp", "-B", build, f"-DOpenVINO_DIR={cmake}"],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "inspect"


@pytest.mark.slow
@pytest.mark.skipif(not COMPILERS, reason="needs a C++ compiler and CMake")
def test_cpp_gives_the_same_verdicts_and_masks(line: Line, program: Path, tmp_path: Path) -> None:
    labels = set()
    for name, row in rows(line.results).items():
        mask = tmp_path / "mask.pgm"
        done = subprocess.run(
            [program, line.model, line.images / name, mask],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        score, label = done.stdout.split()
        assert float(score) == pytest.approx(float(row["score"]), abs=2e-6)
        assert label == row["label"]
        labels.add(label)
        expected = np.asarray(Image.open(line.results / f"masks/{name}.png"))
        assert np.array_equal(np.asarray(Image.open(mask)), expected)
        if label == "defective":
            assert 0 < (expected > 0).mean() < 1
    assert labels == {"good", "defective"}


def write_nan(path: Path, name: str) -> Path:
    """Write a model whose score or map is no number."""
    image = ops.parameter([-1, 3, -1, -1], np.float32, name="input")
    green = ops.gather(image, ops.constant(np.int64([1])), ops.constant(np.int64(1)))
    score = ops.reduce_max(green, ops.constant(np.int64([1, 2, 3])))
    outputs = []
    for key, value in {"pred_score": score, "anomaly_map": green}.items():
        said = ops.multiply(value, ops.constant(np.float32(np.nan if key == name else 1)))
        said.output(0).set_names({key})
        outputs.append(ops.result(said))
    model = openvino.Model(outputs, [image], "nan")
    for level in ("image", "pixel"):
        model.set_rt_info("0.5", ["anoseg", f"normalized_{level}_threshold"])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not COMPILERS, reason="needs a C++ compiler and CMake")
@pytest.mark.parametrize("name", ["pred_score", "anomaly_map"])
def test_cpp_calls_nothing_good_by_no_number(
    line: Line, program: Path, tmp_path: Path, name: str
) -> None:
    """As ``infer`` says of the same model."""
    model = write_nan(tmp_path / "nan.xml", name)
    assert infer(model, str(line.images / "0.ppm"), tmp_path / "out") == 1
    assert "gives no number" in rows(tmp_path / "out")["0.ppm"]["error"]
    done = subprocess.run(
        [program, model, line.images / "0.ppm", tmp_path / "mask.pgm"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "the model gives no number" in done.stderr
    assert not (tmp_path / "mask.pgm").exists()


@pytest.mark.slow
@pytest.mark.skipif(not COMPILERS, reason="needs a C++ compiler and CMake")
def test_cpp_needs_few_files_and_names_bad_input(line: Line, program: Path, tmp_path: Path) -> None:
    """With the five libraries that the document names, and no other that a wheel brings."""
    libraries = Path(openvino.__file__).parent / "libs"
    for name in ("openvino", "openvino_intel_cpu_plugin", "openvino_ir_frontend", "tbb", "hwloc"):
        for path in libraries.glob(f"lib{name}.so*"):
            shutil.copy(path, tmp_path)
    assert megabytes(tmp_path) < 100
    image = line.images / "0.ppm"
    (tmp_path / "cut.ppm").write_bytes(image.read_bytes()[:-5])
    checkpoint = line.model.parents[2] / "model.ckpt"
    assert export(checkpoint, output=tmp_path, smallest_defect=20) == 0
    for model, name, says in (
        (line.model, image, ""),
        (line.model, tmp_path / "no.ppm", "no.ppm: not there"),
        (line.model, line.results / "results.csv", "results.csv: not there, or no binary PPM"),
        (line.model, tmp_path / "cut.ppm", "cut.ppm: has fewer pixels than it says"),
        (tmp_path / "no.xml", image, "no.xml"),
        (tmp_path / "weights/openvino/model.xml", image, "export with --smallest_defect 0"),
    ):
        done = subprocess.run(
            [program, model, name, tmp_path / "mask.pgm"],
            env={"LD_LIBRARY_PATH": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == (2 if says else 0), done.stderr
        assert says in done.stderr
