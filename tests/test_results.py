"""What the documents publish is what benchmarks/results says, and can be repeated."""

import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import record
import run_rows
import tables
from anomalib.data import MVTecAD
from lightning.pytorch.trainer.states import TrainerFn
from rows import DATA, DEFAULT, FIGURES, PAPERS, ROWS, TABLES, Row

PUBLISHED = sorted(tables.RESULTS.rglob("*.json"))
BY_FILE = {row.file(seed): (row, seed) for row in ROWS for seed in row.seeds}


@pytest.mark.parametrize("document", tables.DOCUMENTS, ids=lambda path: path.stem)
def test_tables_are_the_results(document: Path) -> None:
    text = document.read_text()
    assert tables.rendered(text) == text, "run python benchmarks/tables.py --write"


def test_every_table_is_in_one_document() -> None:
    text = "\n".join(document.read_text() for document in tables.DOCUMENTS)
    found = [name for _, name, _ in tables.MARKED.findall(text)]
    assert sorted(found) == sorted(TABLES)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_run_can_be_repeated(file: Path) -> None:
    """By the command of today's row: a row that has changed is run again, or goes."""
    row, seed = BY_FILE[file.relative_to(tables.RESULTS)]
    result = json.loads(file.read_text())
    assert result["command"] == record.command(["accuracy.py", *row.arguments(seed, [])])
    assert result["seed"] == seed
    assert result["commit"]
    assert not result["commit"].endswith("dirty")
    assert {"device", "precision", "config"} <= result.keys()
    assert set(FIGURES) | {"minutes"} <= result["metrics"].keys()
    assert file.stat().st_size < 4000


def test_rows_are_told_apart() -> None:
    assert max(Counter(row.key for row in ROWS).values()) == 1
    assert len(BY_FILE) == sum(len(row.seeds) for row in ROWS)
    for row in ROWS:
        assert (record.PROJECT / f"configs/{row.config}.yaml").is_file()
    with pytest.raises(SystemExit, match="no row is called 'bottles'"):
        run_rows.chosen(["demo", "bottles"])
    assert [row.key for row in run_rows.chosen(["bottle", "cpu/*"])] == [
        "bottle", "cpu/demo", "cpu/bottle",
    ]  # fmt: skip


def publish(folder: Path, row: Row, seed: int, value: float, **about: Any) -> Path:
    """Write the file of a run, all of whose figures are the same."""
    file = folder / row.file(seed)
    file.parent.mkdir(exist_ok=True)
    where = {"precision": "32-true", "device": "a CPU", "commit": "abc"} | about
    metrics = dict.fromkeys((*FIGURES, "threshold_gap", "minutes"), value)
    file.write_text(json.dumps({"seed": seed, **where, "metrics": metrics}))
    return file


def test_a_table_by_hand(tmp_path: Path) -> None:
    publish(tmp_path, DEFAULT["demo"], 0, 0.5)
    publish(tmp_path, DEFAULT["demo"], 7, 0.7)
    publish(tmp_path, DEFAULT["bottle"], 1, 0.25)
    for number, paper in enumerate(PAPERS):
        publish(tmp_path, DEFAULT[paper], 0, number / 10, commit="def")
        publish(tmp_path, DEFAULT[paper], 1, number / 10, commit="def")
    head, _, demo, bottle, *_, fifth, mean = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in tables.markdown(TABLES["default"], tmp_path).splitlines()
        if line.startswith("|")
    )
    assert head[:3] == ["data", "pixels", "image AUROC"]
    # The square root of 0.1 squared plus 0.1 squared.
    assert demo == [DATA["demo"].label, "128", *["0.600 ± 0.141"] * 7, *["0.60 ± 0.14"] * 2, "a"]
    assert bottle == ["MVTec AD, bottle", "256", *["0.250"] * 7, "0.25", "0.25", "b"]
    assert fifth[2:] == [*["0.400"] * 7, "0.40", "0.40", "c"]  # a deviation of 0 is not written
    assert mean == ["five papers, mean", "128", *["0.200"] * 7, "0.20", "0.20", ""]
    text = tables.markdown(TABLES["default"], tmp_path)
    assert "Run a: seeds 0 and 7; 32-true; a CPU; commit abc.\n\nRun b: seed 1;" in text
    assert text.endswith("\n\nNot run: `tiles`.\n")
    short = tables.markdown(TABLES["readme"], tmp_path).splitlines()
    assert short[2:4] == [
        "| SurfaceDemo, part | 128" + " | 0.600" * 6 + " |",
        "| MVTec AD, bottle | 256" + " | 0.250" * 6 + " |",
    ]
    assert len(short) == 5


def test_only_what_stands_between_marks_is_written(tmp_path: Path) -> None:
    assert tables.markdown(TABLES["peers"], tmp_path) == "Not run by `make results` yet.\n"
    text = "before\n<!-- results: readme -->\nold\n<!-- end of results -->\n| after |\n"
    assert tables.rendered(text, tmp_path) == text.replace("old\n", "")
    publish(tmp_path, DEFAULT["tiles"], 0, statistics.mean([0.5, 1.0]))
    once = tables.rendered(text, tmp_path)
    assert "magnetic tiles | 256 | 0.750" in once
    assert tables.rendered(once, tmp_path) == once


class Machine:
    """Stands in for accuracy.py: writes what it was asked for, or fails, or is interrupted."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.seen, self.commit = out, list[int](), "abc"
        self.fails = self.interrupted = -1
        monkeypatch.setattr(results, "commit", lambda: self.commit)
        monkeypatch.setattr(run_rows.subprocess, "run", self.run)
        argv = ["run_rows.py", "--rows", "demo", "--out", str(out), "--runs", str(out / "runs")]
        monkeypatch.setattr(sys, "argv", argv)

    def run(self, command: list[str], **_: Any) -> Any:
        script, *arguments = command[3:]  # after python -W ignore
        seed = int(arguments[arguments.index("--seeds") + 1])
        self.seen.append(seed)
        if seed == self.interrupted:
            raise KeyboardInterrupt
        if seed != self.fails:
            by = record.command([script, *arguments])
            publish(self.out, DEFAULT["demo"], seed, 0.5, commit=self.commit, command=by)
        return subprocess.CompletedProcess(command, int(seed == self.fails))

    def results(self) -> tuple[int, list[int]]:
        self.seen = []
        return run_rows.main(), self.seen


def test_runs_are_kept_until_the_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(tmp_path, monkeypatch)
    machine.interrupted = 1
    assert machine.results() == (130, [0, 1])
    machine.interrupted, machine.fails = -1, 1
    assert machine.results() == (1, [1, 7])
    assert "failed: demo, seed 1" in capsys.readouterr().out
    machine.fails = -1
    assert machine.results() == (0, [1])
    assert machine.results() == (0, [])
    machine.commit = "def"
    assert machine.results() == (0, [0, 1, 7])
    machine.commit = "def-dirty"  # may be other code each time
    assert machine.results() == (0, [0, 1, 7])
    assert machine.results() == (0, [0, 1, 7])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--set", "trainer.max_steps=3"])
    machine.commit = "def"
    assert machine.results() == (0, [0, 1, 7])


def test_a_command_has_no_places_of_a_machine() -> None:
    typed = "/home/x/accuracy.py --root /data --seeds 0 1 --out o --set a=[1]"
    said = record.command(typed.split())
    assert said == "python benchmarks/accuracy.py --seeds 0 1 --set 'a=[1]'"


def test_images_are_drawn_by_the_seed(demo_root: Path) -> None:
    from accuracy import keep

    def drawn(seed: int) -> list[str]:
        data = MVTecAD(demo_root, "part", num_workers=0)
        keep(data, 5, seed)
        data.setup(TrainerFn.FITTING)  # as the trainer does
        return [*data.train_data.samples.image_path]

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) == 5
    with pytest.raises(ValueError, match="at most the 12 good images of part, got 13"):
        keep(MVTecAD(demo_root, "part", num_workers=0), 13, 0)


@pytest.mark.slow
def test_a_peer_is_run_and_kept(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On five images of the demo, timed; its file is what a table is made of."""
    (row,) = run_rows.chosen(["peers/demo/Patchcore"])
    row = row._replace(images=5)
    monkeypatch.setattr(results, "chosen", lambda _: [row])
    places = ["--root", demo_root, "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    monkeypatch.setattr(sys, "argv", ["run_rows.py", *map(str, places)])
    assert run_rows.main() == 0, (tmp_path / "runs" / row.file(7)).with_suffix(".log").read_text()
    (result,) = tables.read(row, tmp_path / "out")
    assert (result["training_images"], result["batch"], result["seed"]) == (5, 32, 7)
    assert result["metrics"]["pixel_AUROC"] > 0.8  # measured: trained, and tested by its maps
    assert result["metrics"]["milliseconds"] > 0
    assert result["precision"] == "32-true"
