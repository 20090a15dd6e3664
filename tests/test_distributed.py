"""Several processes that train one model, with gloo on a CPU; a GPU's NCCL takes the same path."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import nn

from anomalib_anoseg import AnoSeg

# One worker of pytest-xdist: its runs take both cores.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distributed")]
SCRIPT = Path(__file__).with_name("distributed_run.py")


def launch(
    out: Path, data: Path, processes: int, epochs: int, *checkpoint: str, **environment: str
) -> list[Any]:
    """Return what each process saw."""
    out.mkdir()
    arguments = [str(out), str(data), str(processes), str(epochs), *checkpoint]
    # pytest-xdist and Lightning tell their processes who they are by the same kind of variables.
    inherited = {k: v for k, v in os.environ.items() if "PYTEST" not in k and "RANK" not in k}
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False,
        env=inherited | {"OMP_NUM_THREADS": "1"} | environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    files = sorted(out.glob("rank*.pt"))
    assert len(files) == processes
    return [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, demo_root: Path) -> list[Any]:
    """Return what two processes saw in an epoch of every network there is."""
    return launch(tmp_path_factory.mktemp("pair") / "out", demo_root, 2, 1)


def test_every_network_is_synchronised(pair: list[Any]) -> None:
    first, second = (seen["weights"] for seen in pair)
    assert {name.split(".")[0] for name in first} == {"model", "discriminator"}
    assert any("detector.discriminator" in name for name in first)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_every_process_has_the_same_memory(pair: list[Any]) -> None:
    """Of all images, not of those that it trains on itself; one is held out."""
    first, second = pair
    torch.testing.assert_close(first["memory"], second["memory"], rtol=0, atol=0)
    assert first["remembered"] == second["remembered"]
    assert len(first["remembered"]) == 11
    assert {*first["memory"]["levels.0.owner"].tolist()} == {*first["remembered"]}


def test_each_process_makes_anomalies_of_its_own(pair: list[Any]) -> None:
    first, second = (torch.stack(seen["masks"]) for seen in pair)
    assert first.shape == second.shape
    assert len(first) == 3  # 11 images, one held out, in batches of two for each of two
    assert not torch.equal(first, second)


def test_metrics_are_those_of_one_process(tmp_path: Path, pair: list[Any], demo_root: Path) -> None:
    (alone,) = launch(tmp_path / "alone", demo_root, 1, 0, pair[0]["checkpoint"])
    for seen in pair:
        assert seen["results"] == pytest.approx(alone["results"], abs=1e-6)


def test_all_stop_when_one_finds_a_bad_loss(tmp_path: Path, demo_root: Path) -> None:
    """The other would wait for its gradients until somebody notices."""
    first, second = launch(tmp_path / "bad", demo_root, 2, 1, BAD_LOSS="1")
    assert "the loss is not finite in another process" in first["error"]
    assert "the loss is not finite at step 1 (segmentation nan" in second["error"]


def test_resumed_by_fewer_and_by_more_processes(
    tmp_path: Path, pair: list[Any], demo_root: Path
) -> None:
    (alone,) = launch(tmp_path / "fewer", demo_root, 1, 2, pair[0]["checkpoint"])
    assert len(alone["masks"]) == 6  # one epoch of all images, in batches of two
    again = launch(tmp_path / "more", demo_root, 2, 3, alone["checkpoint"])
    torch.testing.assert_close(again[0]["weights"], again[1]["weights"], rtol=0, atol=0)
    assert not torch.equal(again[0]["masks"][0], pair[0]["masks"][0])


def test_each_process_trains_on_crops_of_its_own(tmp_path: Path, demo_root: Path) -> None:
    first, second = launch(tmp_path / "crops", demo_root, 2, 1, CROP="48")
    here, there = (torch.cat(seen["places"]) for seen in (first, second))
    assert here.shape == there.shape == (6, 4)  # 11 images, one held out; each gives one crop
    assert not torch.equal(here, there)
    torch.testing.assert_close(first["weights"], second["weights"], rtol=0, atol=0)
    torch.testing.assert_close(first["memory"], second["memory"], rtol=0, atol=0)


def test_batch_normalisation_can_be_synchronised() -> None:
    """What ``--trainer.sync_batchnorm true`` does. Its forward pass needs a GPU."""
    model = AnoSeg(backbone="mobilenetv3_small_050", image_score="detector")
    plain = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    layers = TorchSyncBatchNorm()
    synchronised = layers.apply(model)
    found = [module for module in synchronised.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert plain == len(found) > 0
    assert not [*filter(lambda m: type(m) is nn.BatchNorm2d, synchronised.modules())]
    layers.revert(synchronised)  # before it is exported
