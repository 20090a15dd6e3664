"""The accuracy script, and every shipped configuration through it, on a few images of the demo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from accuracy import markdown

PROJECT = Path(__file__).parents[1]
CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_accuracy_script(config: Path, demo_root: Path, tmp_path: Path) -> None:
    seeds = [1, 2] if config.stem == "cpu" else [1]
    command = [
        sys.executable, PROJECT / "benchmarks/accuracy.py", "--root", demo_root,
        "--config", config, "--categories", "part", "zipper", "--seeds", *map(str, seeds),
        "--name", "a name: tiny", "--batch", "4", "--out", tmp_path, "--host-thresholds", "--set",
        "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.precision=32-true",
        "model.init_args.backbone=mobilenetv3_small_050",
        "model.init_args.pre_processor.init_args.image_size=[64,64]",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [result["seed"] for result in results] == seeds
    for result in results:
        assert result["steps"] == 3  # 12 images, of which 1 is held out, in batches of 4
        assert 0 <= result["metrics"]["pixel_IoU"] <= result["metrics"]["pixel_IoUMax"] <= 1
        # Fitted on the test set: nothing is better, and it is close to the best.
        assert result["metrics"]["host_pixel_IoU"] == pytest.approx(
            result["metrics"]["pixel_IoUMax"], abs=5e-3
        )
        assert result["metrics"]["image_F1Score"] <= result["metrics"]["image_F1Max"]
    (row,) = (line for line in done.stdout.splitlines() if "| a name: tiny |" in line)
    assert "| part |" in row
    assert f"| {' '.join(map(str, seeds))} |" in row
    mean = sum(result["metrics"]["pixel_AUPR"] for result in results) / len(seeds)
    assert f"| {mean:.3f}{' ±' if len(seeds) > 1 else ' |'}" in row
    assert "Not run: zipper." in done.stdout


def test_a_run_on_some_of_the_images_is_a_run(tmp_path: Path) -> None:
    run = {"name": "tiny", "category": "bottle", "images": 20, "seed": 0}
    result = run | {"device": "a CPU", "commit": "abc", "metrics": {}}
    (tmp_path / "run.json").write_text(json.dumps(result))
    table = markdown(tmp_path, ["bottle", "zipper"])
    assert "| tiny | bottle, 20 images |" in table
    assert table.endswith("Not run: zipper.\n")
