"""What a factory does to a program, for half an hour; ``make soak`` runs it.

    python benchmarks/soak.py [--kills 20] [--images 2000] [--epochs 20]

Kills training at random moments and resumes it, fills the disk, takes images and worker processes
away, and watches the memory. Prints a line for each, exits with 1 if one failed. On Linux; the full
disk needs the right to mount one.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch.callbacks import Callback

from anomalib_anoseg import AnoSeg, PreProcessor
from anomalib_anoseg.data import surface_demo

PROGRAM = str(Path(__file__).resolve())


def small(**arguments: Any) -> AnoSeg:
    """Return a model that trains in seconds."""
    return AnoSeg(
        backbone="mobilenetv3_small_050", visualizer=False, seed=3,
        pre_processor=PreProcessor((64, 64)), **arguments,
    )  # fmt: skip


def data(root: Path, workers: int = 0) -> Folder:
    """Return good images only, as a user's."""
    return Folder(
        name="part", root=root / "part", normal_dir="train/good", train_batch_size=4,
        val_split_mode="none", num_workers=workers, seed=1,
    )  # fmt: skip


def engine(out: Path, **arguments: Any) -> Engine:
    """Return a quiet engine on the CPU."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=out, accelerator="cpu", **quiet | arguments)


def train(root: Path, out: Path, checkpoint: str | None) -> None:
    """Train eight epochs; what the killed process runs."""
    run = engine(out, max_epochs=8)
    model = small()
    run.fit(model, datamodule=data(root), ckpt_path=checkpoint)
    torch.save(model.state_dict(), out / "final.pt")


def child(*arguments: str) -> "subprocess.Popen[bytes]":
    """Start this program again."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, PROGRAM, *arguments], stdout=quiet, stderr=quiet)


def kills(root: Path, folder: Path, count: int) -> str:
    """Kill training at random moments, resume it, and compare with a run that was left alone."""
    started = time.monotonic()
    assert child("--train", str(root), str(folder / "whole")).wait() == 0
    seconds = time.monotonic() - started
    whole = torch.load(folder / "whole/final.pt", weights_only=True)
    resumed = 0
    for index in range(count):
        out = folder / f"killed{index}"
        process = child("--train", str(root), str(out))
        # The first third of a run is Python's imports.
        time.sleep(random.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        saved = sorted(out.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
        for path in saved:
            AnoSeg.load_from_checkpoint(path)
        again = ["--train", str(root), str(out), *map(str, saved[-1:])]
        if not (out / "final.pt").is_file():
            assert child(*again).wait() == 0
        ended = torch.load(out / "final.pt", weights_only=True)
        torch.testing.assert_close(ended, whole, rtol=0, atol=0, equal_nan=True)
        resumed += bool(saved)
    return f"{count} kills, {resumed} of them after a checkpoint: final weights equal bit for bit"


@contextmanager
def tiny_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes."""
    disk = folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    subprocess.run(["/bin/mount", *options, disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["/bin/umount", "--lazy", disk], check=True)


def full_disk(root: Path, folder: Path) -> str:
    """Let the disk run full in the second checkpoint, and in each export."""
    model = small()
    run = engine(folder / "measured", max_epochs=1)
    run.fit(model, datamodule=data(root))
    size = Path(run.trainer.checkpoint_callback.best_model_path).stat().st_size
    with tiny_disk(folder, size=3 * size // 2) as disk:
        refused(lambda: engine(disk, max_epochs=4).fit(model, datamodule=data(root)), OSError)
        (saved,) = disk.rglob("*.ckpt")
        AnoSeg.load_from_checkpoint(saved)
        saved.unlink()
        (disk / "ballast").write_bytes(bytes(disk_free(disk) - 300_000))
        for kind in ("torch", "onnx", "openvino"):
            refused(lambda kind=kind: engine(folder).export(model, kind, disk), OSError)
        left = [*disk.rglob("model.*")]
        assert not left, left
    return "the first checkpoint outlives the second, for which there is no room; no half exports"


def disk_free(path: Path) -> int:
    """Return the free bytes of a file system."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def refused(call: Callable[[], Any], *kinds: type[BaseException], says: str = "") -> None:
    """Call what must fail in a way that is documented."""
    try:
        call()
    except kinds as error:
        if says not in str(error):
            raise
        return
    msg = "it should have failed"
    raise AssertionError(msg)


def images_lost(folder: Path) -> str:
    """Remove an image, and truncate one, while training reads them."""

    def lose(path: Path) -> None:
        path.unlink()

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:500])

    for damage in (lose, cut):
        for workers in (0, 2):
            own = folder / f"{damage.__name__}{workers}"
            surface_demo.write_part(own / "part", counts=surface_demo.Counts(12, 1, 1))
            images = sorted((own / "part/train/good").glob("*.png"))

            class Damage(Callback):
                def on_train_epoch_end(
                    self, *_: Any, path: Path = images[0], damage: Any = damage
                ) -> None:
                    if path.exists():
                        damage(path)

            run = engine(own / "out", max_epochs=4, callbacks=[Damage()])
            refused(
                lambda run=run, own=own, workers=workers: run.fit(
                    small(), datamodule=data(own, workers)
                ),
                OSError, SyntaxError, says=images[0].name,
            )  # fmt: skip
            for path in own.rglob("*.ckpt"):
                AnoSeg.load_from_checkpoint(path)
    return "an image removed or truncated in training is named, with and without workers"


def workers_killed(root: Path, folder: Path) -> str:
    """Kill a process that loads images."""

    class Kill(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 5:
                for process in psutil.Process().children():
                    process.kill()

    run = engine(folder, max_epochs=8, callbacks=[Kill()])
    refused(lambda: run.fit(small(), datamodule=data(root, workers=2)), RuntimeError, says="worker")
    for path in folder.rglob("*.ckpt"):
        AnoSeg.load_from_checkpoint(path)
    return "a killed worker ends training with an error, not with a wait"


def memory() -> float:
    """Return the memory of this process in MB."""
    return psutil.Process().memory_info().rss / 1e6


def training_memory(root: Path, folder: Path, epochs: int) -> str:
    """Train for many epochs and compare the memory after a quarter with that at the end."""
    seen: list[float] = []

    class Watch(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            seen.append(memory())

    engine(folder, max_epochs=epochs, callbacks=[Watch()]).fit(small(), datamodule=data(root))
    early, late = seen[epochs // 4], seen[-1]
    assert late < 1.05 * early, seen
    return f"{epochs} epochs: {early:.0f} MB after a quarter, {late:.0f} MB at the end"


def inference_memory(root: Path, folder: Path, count: int) -> str:
    """Run the command over many images and compare its memory likewise."""
    exported = engine(folder).export(small(), "openvino", folder / "exported")
    image = cv2.imread(str(next((root / "part/train/good").glob("*.png"))))
    (folder / "images").mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"images/{index:05}.png"), np.roll(image, index, 1))
    command = [
        sys.executable, "-m", "anomalib_anoseg", "infer", "--model", str(exported),
        "--input", str(folder / "images"), "--output", str(folder / "out"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen: list[tuple[int, float]] = []
    table = folder / "out/results.csv"
    while process.poll() is None:
        if table.is_file():
            done = table.read_bytes().count(b"\n")
            seen.append((done, psutil.Process(process.pid).memory_info().rss / 1e6))
        time.sleep(0.1)
    assert process.returncode == 0
    assert table.read_bytes().count(b"\n") == count + 1
    early, late = (max(mb for n, mb in seen if low <= n / count <= low + 0.25) for low in (0, 0.75))
    assert late < 1.1 * early, (early, late)
    return f"{count} images: {early:.0f} MB in the first quarter, {late:.0f} MB in the last"


def main() -> int:
    """Run every part and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--only", default="", help="part of the names of what is done")
    parser.add_argument("--train", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        root, out, *checkpoint = arguments.train
        train(Path(root), Path(out), next(iter(checkpoint), None))
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        surface_demo.write_part(root / "part", counts=surface_demo.Counts(24, 1, 1))
        parts: dict[str, Callable[[Path], str]] = {
            "kill -9": lambda folder: kills(root, folder, arguments.kills),
            "full disk": lambda folder: full_disk(root, folder),
            "images lost": images_lost,
            "workers killed": lambda folder: workers_killed(root, folder),
            "memory in training": lambda f: training_memory(root, f, arguments.epochs),
            "memory in inference": lambda f: inference_memory(root, f, arguments.images),
        }
        for title, part in parts.items():
            if arguments.only not in title:
                continue
            folder = Path(name) / title
            folder.mkdir()
            try:
                print(f"{title}: {part(folder)}", flush=True)
            except Exception as error:  # noqa: BLE001 - the other parts shall run
                failed += 1
                print(f"{title}: FAILED, {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
