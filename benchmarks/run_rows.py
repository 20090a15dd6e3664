"""Run what the documents publish, row by row, and keep the figures in benchmarks/results.

Usage: python benchmarks/run_rows.py --root DATASETS [--rows demo bottle 'peers/*'] [--seeds 0]
A run is kept if its file is of the same command and of a commit with the same code, so this may be
stopped and started again. One that fails is reported at the end and costs no other. --list only
says what there is. benchmarks/tables.py writes the tables of the documents.
"""

import argparse
import json
import subprocess
import sys
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
    try:
        for number, (row, seed) in enumerate(jobs, 1):
            print(f"[{number}/{len(jobs)}] {row.key}, seed {seed}: ", end="", flush=True)
            said = job(row, seed, arguments)
            print(said, flush=True)
            if said.startswith("failed"):
                failed.append(f"{row.key}, seed {seed}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on here")
        return 130
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
    log = (arguments.runs / row.file(seed)).with_suffix(".log").resolve()
    log.parent.mkdir(parents=True, exist_ok=True)
    places = {"--root": arguments.root, "--out": file.parent, "--runs": arguments.runs}
    where = [part for name, path in places.items() for part in (name, str(path.resolve()))]
    with log.open("w") as stream:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", script, *where, *options],
            check=False, cwd=PROJECT, stdout=stream, stderr=subprocess.STDOUT,
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
