"""What the documents publish is what benchmarks/results says, and can be repeated."""

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import record
import run_rows
import side_by_side
import tables
from anomalib.data import MVTecAD
from lightning.pytorch.trainer.states import TrainerFn
from rows import DATA, DEFAULT, FIGURES, PAPERS, ROWS, TABLES, Row
from side_by_side import commit_checked_out

from anomalib_anoseg import PreProcessor

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
    where = {"precision": "32-true", "device": "a CPU", "commit": "abc", "at_once": 1} | about
    metrics = dict.fromkeys((*FIGURES, "threshold_gap", "minutes"), value)
    file.write_text(json.dumps({"seed": seed, **where, "metrics": metrics}))
    return file


def test_a_table_by_hand(tmp_path: Path) -> None:
    publish(tmp_path, DEFAULT["demo"], 0, 0.5)
    publish(tmp_path, DEFAULT["demo"], 7, 0.7)
    publish(tmp_path, DEFAULT["bottle"], 1, 0.25)
    for number, paper in enumerate(PAPERS):
        for seed in DEFAULT[paper].seeds:
            publish(tmp_path, DEFAULT[paper], seed, number / 10, commit="def")
    head, _, demo, bottle, *_, fifth, mean = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in tables.markdown(TABLES["default"], tmp_path).splitlines()
        if line.startswith("|")
    )
    assert head[:3] == ["data", "pixels", "image AUROC"]
    # The square root of 0.1 squared plus 0.1 squared.
    assert demo == [DATA["demo"].label, "128", *["0.600 ± 0.141"] * 7, "0.60 ± 0.14", "a"]
    assert bottle == ["MVTec AD, bottle", "256", *["0.250"] * 7, "0.25", "b"]
    assert fifth[2:] == [*["0.400 ± 0.000"] * 7, "0.40 ± 0.00", "c"]
    assert mean == ["five papers, mean", "128", *["0.200"] * 7, "0.20", ""]
    text = tables.markdown(TABLES["default"], tmp_path)
    assert "Run a: seeds 0 and 7; 32-true; a CPU; commit abc.\n\nRun b: seed 1;" in text
    assert text.endswith("\n\nNot run: `demo` with seed 1, `bottle` with seeds 0 and 7, `tiles`.\n")
    # README says "three seeds", so a line of fewer is none.
    papers = "| PIPED, five kinds of paper | 128" + " | 0.200" * 6 + " |"
    assert tables.markdown(TABLES["readme"], tmp_path).splitlines()[2:] == [papers]
    publish(tmp_path, DEFAULT["demo"], 1, 0.9)
    part = "| SurfaceDemo, part | 128" + " | 0.700" * 6 + " |"
    assert tables.markdown(TABLES["readme"], tmp_path).splitlines()[2:] == [part, papers]


@pytest.mark.parametrize(
    ("name", "line"), [("readme", "| PIPED, five"), ("default", "| five papers")]
)
def test_a_mean_of_rows_needs_every_seed_of_every_row(tmp_path: Path, name: str, line: str) -> None:
    for paper in PAPERS:
        for seed in DEFAULT[paper].seeds:
            file = publish(tmp_path, DEFAULT[paper], seed, 0.5)
    assert line in tables.markdown(TABLES[name], tmp_path)
    file.unlink()
    assert line not in tables.markdown(TABLES[name], tmp_path)


def test_only_what_stands_between_marks_is_written(tmp_path: Path) -> None:
    assert tables.markdown(TABLES["peers"], tmp_path) == "Not run by `make results` yet.\n"
    text = "before\n<!-- results: readme -->\nold\n<!-- end of results -->\n| after |\n"
    assert tables.rendered(text, tmp_path) == text.replace("old\n", "")
    for seed, value in zip(DEFAULT["tiles"].seeds, (0.5, 0.75, 1.0), strict=True):
        publish(tmp_path, DEFAULT["tiles"], seed, value)
    once = tables.rendered(text, tmp_path)
    assert "magnetic tiles | 256 | 0.750" in once
    assert tables.rendered(once, tmp_path) == once


class Machine:
    """Stands in for accuracy.py: writes what it was asked for, or fails, or is interrupted."""

    def __init__(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.out, self.seen, self.commit = out, list[int](), "abc"
        self.folders = set[str]()
        self.fails = self.interrupted = -1
        monkeypatch.setattr(run_rows, "commit_of_code", lambda: self.commit)
        monkeypatch.setattr(run_rows.subprocess, "run", self.run)
        argv = ["run_rows.py", "--rows", "demo", "--out", str(out), "--runs", str(out / "runs")]
        monkeypatch.setattr(sys, "argv", argv)

    def run(self, command: list[str], **_: Any) -> Any:
        script, *arguments = command[3:]  # after python -W ignore
        given = dict(pairwise(arguments))
        seed = int(given["--seeds"])
        self.seen.append(seed)
        self.folders.add(given["--runs"])
        if seed == self.interrupted:
            raise KeyboardInterrupt
        if seed != self.fails:
            by = record.command([script, *arguments])
            about = {"commit": self.commit, "command": by, "at_once": int(given["--at-once"])}
            publish(self.out, DEFAULT["demo"], seed, 0.5, **about)
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


def test_several_runs_at_once_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--jobs", "3"])
    status, seen = machine.results()
    assert (status, sorted(seen)) == (0, [0, 1, 7])
    assert len(machine.folders) == 3  # Lightning would number their checkpoints at the same time
    assert "commit abc; 3 runs at once." in tables.markdown(TABLES["default"], tmp_path)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--jobs", "1"])
    assert machine.results() == (0, [])  # the same figures


@pytest.mark.parametrize("out", [[], ["--out", "{}"], ["--out", "{}/trial"]])
def test_a_trial_does_not_replace_published_figures(
    out: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["run_rows.py", "--set", "trainer.max_steps=3", *out]
    monkeypatch.setattr(sys, "argv", [part.format(tables.RESULTS) for part in typed])
    with pytest.raises(SystemExit):
        run_rows.main()
    assert "name another folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "written"), [(["SEEDS=7"], True), (["OUT=trial"], False)])
def test_make_writes_tables_of_published_figures_only(settings: list[str], written: bool) -> None:
    command = ["make", "--dry-run", "results", *settings]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=record.PROJECT)
    assert "run_rows.py" in done.stdout
    assert ("tables.py --write" in done.stdout) is written


@pytest.mark.slow
def test_an_edit_marks_the_commit_of_what_it_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows by the files they depend on, all else by any file; in a repository of its own."""
    script, other = (tmp_path / f"benchmarks/{name}.py" for name in ("accuracy", "compare"))
    script.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "PROJECT", tmp_path)
    for file in (script, other):
        file.write_text("")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "both"]):
        subprocess.run(["git", *arguments], check=True)
    clean = record.commit_of_code()
    assert clean == commit_checked_out()
    other.write_text("# edited")
    assert record.commit_of_code() == clean
    assert commit_checked_out() == f"{clean}-dirty"
    script.write_text("# edited")
    assert record.commit_of_code() == f"{clean}-dirty"


def test_a_command_has_no_places_of_a_machine() -> None:
    typed = "/home/x/accuracy.py --root /data --seeds 0 1 --out o --set a=[1]"
    said = record.command(typed.split())
    assert said == "python benchmarks/accuracy.py --seeds 0 1 --set 'a=[1]'"


def test_the_size_of_what_a_model_sees() -> None:
    processors = PreProcessor((64, 32)), PreProcessor("native")
    seen = [record.image_size(Mock(pre_processor=processor)) for processor in processors]
    assert seen == [(64, 32), "native"]


def test_figures_say_where_they_are_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine with a GPU that was not used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(side_by_side.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(side_by_side.torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(side_by_side, "commit_checked_out", lambda: "abc")
    assert str(side_by_side.where()).startswith("a GPU, commit abc, anomalib ")
    side_by_side.save("a title", side_by_side.where("cpu"), {"rows": {}})
    saved = json.loads((tmp_path / "results/bench/a_title.json").read_text())
    assert [*saved] == ["commit", "device", "versions", "rows"]
    assert " CPU, " in saved["device"]


def test_a_missing_checkpoint_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import false_alarms

    monkeypatch.setattr(false_alarms, "measure", Mock(side_effect=AssertionError))
    path = tmp_path / "AnoSeg/MVTecAD/tile/v0/weights/lightning/model.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    typed = f"false_alarms.py --root . --runs {tmp_path} --categories tile wood"
    monkeypatch.setattr(sys, "argv", typed.split())
    with pytest.raises(SystemExit, match="no checkpoint of wood in"):
        false_alarms.main()


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


def test_no_images_are_not_all_images(demo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import accuracy

    model = Mock(**{"pre_processor.transform": None})
    monkeypatch.setattr(accuracy.AnoSeg, "from_config", lambda *_, **__: model)
    config = str(record.PROJECT / "configs/cpu.yaml")
    typed = ["accuracy.py", "--root", str(demo_root), "--config", config, "--images", "0"]
    monkeypatch.setattr(sys, "argv", typed)
    with pytest.raises(ValueError, match="at most the 12 good images of part, got 0"):
        accuracy.prepare(accuracy.parse(), "part", 0)


@pytest.mark.slow
def test_a_peer_is_run_and_kept(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On five images of the demo; its file is what a table is made of."""
    (row,) = run_rows.chosen(["peers/demo/Patchcore"])
    row = row._replace(images=5)
    monkeypatch.setattr(run_rows, "chosen", lambda _: [row])
    places = ["--root", demo_root, "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    monkeypatch.setattr(sys, "argv", ["run_rows.py", *map(str, places)])
    assert run_rows.main() == 0, (tmp_path / "runs" / row.file(7)).with_suffix(".log").read_text()
    (result,) = tables.read(row, tmp_path / "out")
    assert (result["training_images"], result["batch"], result["seed"]) == (5, 32, 7)
    assert result["metrics"]["pixel_AUROC"] > 0.8  # measured: trained, and tested by its maps
    assert result["precision"] == "32-true"


@pytest.mark.slow
def test_an_exported_peer_is_timed() -> None:
    from accuracy import latency, peer

    model, _ = peer("Stfpm", (64, 64))
    found = latency(model.eval(), 64)
    assert found["milliseconds"] > 0
    assert found["megabytes"] > 0
