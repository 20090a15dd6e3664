"""Run what the documents publish, row by row, and keep the figures in benchmarks/results.

Usage: python benchmarks/run_rows.py --root DATASETS [--rows demo bottle 'peers/*'] [--seeds 0]
A run is kept if its file is of the same command and of a commit with the same code, so this may be
stopped and started again. One that fails is reported at the end and costs no other. --list only
says what there is. --jobs runs several at once, which a GPU has room for; then their minutes are
those of runs that shared a machine, and say so. benchmarks/tables.py writes the tables of the
documents.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from record import PROJECT, command, commit_of_code
from rows import ROWS, Row
from tables import RESULTS

SHOWN = ("image_AUROC", "pixel_AUPR", "pixel_IoUMax", "minutes")


def main() -> int:
    """Go through the rows; return 1 if a run failed, 130 after Ctrl-C."""
    arguments = parse()
    failed = []
    jobs = [(row, seed) for row in chosen(arguments.rows) for seed in row.seeds]
    jobs = [(row, seed) for row, seed in jobs if seed in (arguments.seeds or row.seeds)]
    pool = ThreadPoolExecutor(arguments.jobs)

    def interruptible(row: Row, seed: int) -> str:
        try:
            return job(row, seed, arguments)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)  # before this thread takes the next
            raise

    try:
        runs = [pool.submit(interruptible, row, seed) for row, seed in jobs]
        for number, ((row, seed), run) in enumerate(zip(jobs, runs, strict=True), 1):
            print(f"[{number}/{len(jobs)}] {row.key}, seed {seed}: ", end="", flush=True)
            said = run.result()
            print(said, flush=True)
            if said.startswith("failed"):
                failed.append(f"{row.key}, seed {seed}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on here")
        return 130
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        print("failed:", "; ".join(failed))
    return int(bool(failed))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    root = PROJECT / "datasets/SurfaceDemo"  # where make demo draws the part
    parser.add_argument("--root", type=Path, default=root, help="folder of the categories")
    parser.add_argument("--rows", nargs="+", default=["*"], help="keys or patterns of rows.py")
    parser.add_argument("--seeds", nargs="+", type=int, help="some of those of each row")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="trainer.X=Y", help="to try it, with --out"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=Path, default=PROJECT / "results/rows", help="checkpoints")
    arguments = parser.parse_args()
    if arguments.set and arguments.out.resolve().is_relative_to(RESULTS.resolve()):
        parser.error(
            "figures of other settings must not replace published ones, but --set came with --out "
            f"{arguments.out}: name another folder, --out results/trial"
        )
    return arguments


def chosen(patterns: list[str]) -> list[Row]:
    """Return the rows that a pattern names.

    Raises:
        SystemExit: If one names none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(row.key, pattern) for row in ROWS):
            sys.exit(f"no row is called {pattern!r}: there are {' '.join(row.key for row in ROWS)}")
    return [row for row in ROWS if any(fnmatchcase(row.key, pattern) for pattern in patterns)]


def job(row: Row, seed: int, arguments: argparse.Namespace) -> str:
    """Run one if it has to be, and return what there is to say about it."""
    file = arguments.out / row.file(seed)
    script = str(PROJECT / "benchmarks/accuracy.py")
    options = row.arguments(seed, arguments.set)
    if kept(file, command([script, *options])):
        return "kept"
    if row.category != "part" and not (arguments.root / row.category / "train").is_dir():
        return f"no data, {arguments.root / row.category}"
    if arguments.list:
        return "to be run"
    runs = (arguments.runs / row.file(seed)).with_suffix("").resolve()
    log = runs.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    # A folder for each: Lightning numbers those of runs that it finds there.
    places = {"--root": arguments.root.resolve(), "--out": file.parent.resolve(), "--runs": runs}
    here = {"--at-once": arguments.jobs} | places
    where = [str(part) for pair in here.items() for part in pair]
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    # glibc by itself keeps what PatchCore's choice of a coreset frees: 22 GB on the demo's part.
    with log.open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", script, *where, *options],
            check=False, cwd=PROJECT, stdout=stream, stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(threads), "MALLOC_MMAP_THRESHOLD_": "4194304"} | os.environ,
        )  # fmt: skip
    if done.returncode:
        return f"failed, see {log}"
    metrics = json.loads(file.read_text())["metrics"]
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in SHOWN if name in metrics)


def kept(file: Path, by: str) -> bool:
    """Return whether a file has what a command would give now."""
    if not file.exists():
        return False
    result, now = json.loads(file.read_text()), commit_of_code()
    return (result["command"], result["commit"]) == (by, now) and not now.endswith("dirty")


if __name__ == "__main__":
    sys.exit(main())
