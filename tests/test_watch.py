"""infer beside a production line: a folder that is watched, JSON lines, streams, signals."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from test_inference import (
    files,
    frames_of,
    infer_here,
    names,
    opened,
    spots,
    summary,
    table,
    write,
    write_bright_spots,
    write_narrow,
)

from anomalib_anoseg.inference import command, watch
from anomalib_anoseg.inference.address import without_login
from anomalib_anoseg.inference.files import Files
from anomalib_anoseg.inference.json_lines import as_json
from anomalib_anoseg.inference.records import Records
from anomalib_anoseg.inference.stopping import Stop
from anomalib_anoseg.inference.table import Row, from_text, to_text
from anomalib_anoseg.inference.watch import Watch
from anomalib_anoseg.report.history import read_history
from anomalib_anoseg.report.history_command import history


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bright_spots(tmp_path_factory.mktemp("model") / "model.xml")


@pytest.fixture
def judge(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a call that watches in/, does something when all is judged, and stops.

    Without an action the stop comes as by SIGTERM; the exit status is returned.
    """
    monkeypatch.setattr(watch, "SETTLED", 0.05)
    monkeypatch.setattr(watch, "POLL", 0.02)
    (tmp_path / "in").mkdir()

    def run(action: Callable[[], object] | None = None, **options: Any) -> int:
        def idle(self: Watch, seconds: float) -> None:
            if self._found:
                time.sleep(seconds)
            elif action is None:
                self._stop.how = "terminated"
            else:
                action()

        monkeypatch.setattr(Watch, "_wait", idle)
        arguments = {"model": model, "input": str(tmp_path / "in"), "output": tmp_path / "out"}
        try:
            return infer_here(**arguments | options, watch=True)
        except SystemExit as ended:
            return int(str(ended.code))

    return run


def rows_of(folder: Path) -> list[str]:
    return [row["file"] for row in table(folder)]


def test_a_file_is_whole_when_it_has_not_changed_for_a_while(tmp_path: Path) -> None:
    """With a clock of its own: what matters is the file's state at each look."""
    looking = Watch(tmp_path, tmp_path / "out", Stop())
    growing, renamed = tmp_path / "growing.png", tmp_path / "renamed.png"
    growing.touch()
    renamed.with_suffix(".part").write_bytes(b"all of it")
    assert looking._look(0.0) == []
    assert looking._look(9.0) == []  # empty, and a name of no image
    with growing.open("ab", buffering=0) as file:
        for now in (10.0, 10.4, 10.8):
            file.write(b"more")
            assert looking._look(now) == []
    renamed.with_suffix(".part").rename(renamed)
    assert looking._look(11.0) == []
    assert looking._look(11.3) == ["growing.png"]
    assert set(looking._look(11.5)) == {"growing.png", "renamed.png"}


def test_the_oldest_come_first_and_a_round_is_short(tmp_path: Path) -> None:
    for index in range(watch.ROUND + 5):
        path = tmp_path / f"{index:04}.png"
        path.write_bytes(b"image")
        os.utime(path, (1000 - index, 1000 - index))
    looking = Watch(tmp_path, tmp_path / "out", Stop())
    looking._look(0.0)
    whole = looking._look(1.0)
    assert len(whole) == watch.ROUND
    assert whole == sorted(whole, reverse=True)
    assert whole[0] == f"{watch.ROUND + 4:04}.png"


def test_each_image_once_in_two_runs(judge: Callable[..., int], tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write(source / "a.png", spots((5, 5, 20, 20)))
    write(source / "day/b.jpg", spots())
    (source / "broken.png").write_bytes(b"no image")
    assert judge() == 143
    assert sorted(rows_of(out)) == ["a.png", "broken.png", "day/b.jpg"]
    assert summary(out)["ended"] == "terminated"
    first = (out / "results.csv").read_bytes()
    pictures = files(out)
    write(source / "c.png", spots((1, 1, 4, 4)))
    assert judge() == 143
    assert (out / "results.csv").read_bytes().startswith(first)
    assert sorted(rows_of(out)) == ["a.png", "broken.png", "c.png", "day/b.jpg"]
    assert files(out) == pictures | {"masks/c.png", "overlays/c.png.jpg"}
    counted = {name: summary(out)[name] for name in ("images", "good", "defective", "errors")}
    assert counted == {"images": 4, "good": 1, "defective": 2, "errors": 1}


def test_a_file_that_cannot_be_judged_is_tried_once(
    judge: Callable[..., int], tmp_path: Path
) -> None:
    narrow = write_narrow(tmp_path / "narrow.xml")
    write(tmp_path / "in/a.png", spots(size=(41, 41)))
    for _ in range(2):
        judge(model=narrow)
        (row,) = table(tmp_path / "out")
        assert row["error"].startswith("cannot be judged: ")
        assert row["time"]


def test_a_file_that_is_written_again_is_a_new_image(
    judge: Callable[..., int], tmp_path: Path
) -> None:
    """Also when it was unreadable at first, and when nobody watched meanwhile."""
    latest, out = tmp_path / "in/latest.png", tmp_path / "out"
    latest.write_bytes(b"half of an image")
    judge()
    for index, boxes in enumerate([(), ((5, 5, 20, 20),), ((50, 5, 10, 10),)]):
        write(latest, spots(*boxes))
        os.utime(latest, (2000 + index, 2000 + index))
        judge()
    assert rows_of(out) == ["latest.png"] * 4
    assert [row["label"] for row in table(out)] == ["", "good", "defective", "defective"]
    assert [row["time"][11:19] for row in table(out)[1:]] == ["00:33:20", "00:33:21", "00:33:22"]
    mask = np.asarray(Image.open(out / "masks/latest.png"))
    assert (mask == spots((50, 5, 10, 10))[..., 1]).all()
    assert (out / ".pictures").read_bytes().count(b"\0") == 2  # no longer with each image


def test_a_run_goes_on_where_another_was_killed(judge: Callable[..., int], tmp_path: Path) -> None:
    """Oracle: the table that one run alone would have written."""
    source, out = tmp_path / "in", tmp_path / "out"
    for index in range(3):
        write(source / f"{index}.png", spots((5, 5, 20, 20)))
        os.utime(source / f"{index}.png", (index + 1, index + 1))
    judge()
    whole = (out / "results.csv").read_bytes()
    # The last picture was written, its row was not; the summary was being written.
    (out / "results.csv").write_bytes(whole[:-20])
    (out / "results.json").write_bytes(b"")
    judge()
    assert (out / "results.csv").read_bytes() == whole
    assert summary(out)["defective"] == 3


def test_a_table_that_another_program_saved_is_continued(
    judge: Callable[..., int], tmp_path: Path
) -> None:
    """With its ends of lines; a name holds one itself, and the last row is cut short."""
    source, out = tmp_path / "in", tmp_path / "out"
    names = ["a.png", "b\n.png", "c.png"]
    for index, name in enumerate(names):
        write(source / name, spots((5, 5, 20, 20)))
        os.utime(source / name, (index + 1, index + 1))
    judge()
    saved = (out / "results.csv").read_bytes().replace(b"\r\n", b"\n")
    (out / "results.csv").write_bytes(saved[:-20])
    assert read_history(out).images == 2
    (source / "a.png").unlink()  # what is lost now nobody judges again
    judge()
    assert rows_of(out) == names
    assert (out / "results.csv").read_bytes() == saved[:-1] + b"\r\n"


def test_a_table_that_another_program_replaces_meanwhile_gets_the_next_rows(
    judge: Callable[..., int], tmp_path: Path
) -> None:
    """As an editor saves it: under another name, then renamed; one leaves out the last line end."""
    source, out = tmp_path / "in", tmp_path / "out"
    changes = [
        lambda saved: saved,
        lambda saved: saved.rstrip(),
        lambda saved: saved[:0],
    ]
    write(source / "0.png", spots())

    def save() -> None:
        if not changes:
            raise KeyboardInterrupt
        saved = changes.pop(0)((out / "results.csv").read_bytes())
        (tmp_path / "saved").write_bytes(saved)
        (tmp_path / "saved").replace(out / "results.csv")
        write(source / f"{3 - len(changes)}.png", spots())

    with pytest.raises(KeyboardInterrupt):
        judge(save)
    assert rows_of(out) == ["3.png"]  # of the last program, which left nothing
    assert summary(out)["ended"] == "interrupted"


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole.replace(b"\r\n", b"\r"),
        lambda whole: whole.replace(b",", b";"),
        lambda whole: whole.replace(b"a.png", b'"a.png'),
        lambda whole: whole.replace(b"a.png", b'5" a.png'),
        lambda whole: whole.replace(b"a.png", b"a\xff.png"),
    ],
    ids=["other ends of lines", "semicolons", "an open quote", "a quote in a name", "no UTF-8"],
)
def test_a_table_that_cannot_be_understood_is_not_cut(
    damage: Callable[[bytes], bytes], judge: Callable[..., int], tmp_path: Path
) -> None:
    for index, name in enumerate(("a.png", "b.png", "c.png")):
        write(tmp_path / "in" / name, spots())
        os.utime(tmp_path / "in" / name, (index + 1, index + 1))
    judge()
    path = tmp_path / "out/results.csv"
    path.write_bytes(damage(path.read_bytes()) + b"d.png,0.1")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"^{path}: (has other columns|cannot be read as a)"):
        judge()
    with pytest.raises(ValueError, match=f"^{path}: "):
        read_history(tmp_path / "out")
    assert path.read_bytes() == before


def test_a_picture_never_replaces_a_users_file(judge: Callable[..., int], tmp_path: Path) -> None:
    write(tmp_path / "in/a.png", spots((5, 5, 20, 20)))
    truth = tmp_path / "out/masks/a.png"
    write(truth, spots())
    before = truth.read_bytes()
    for index in range(2):
        os.utime(tmp_path / "in/a.png", (1000 + index, 1000 + index))
        judge()
        assert truth.read_bytes() == before
        assert "choose another --output" in table(tmp_path / "out")[-1]["error"]


def test_results_of_something_else_are_not_continued(
    judge: Callable[..., int], tmp_path: Path
) -> None:
    write(tmp_path / "in/a.png", spots())
    judge()
    before = (tmp_path / "out/results.csv").read_bytes()
    other = write_bright_spots(tmp_path / "other.xml", said=(0.5, 0.5))
    with pytest.raises(ValueError, match=r"digest was .* choose another --output"):
        judge(model=other)
    with pytest.raises(ValueError, match=r"image_threshold was 0\.5, now 0\.6"):
        judge(image_threshold=0.6)
    (tmp_path / "another").mkdir()
    with pytest.raises(ValueError, match=r"input was .*in, now .*another: choose"):
        judge(input=str(tmp_path / "another"))
    assert (tmp_path / "out/results.csv").read_bytes() == before
    assert summary(tmp_path / "out")["ended"] == "terminated"
    # The end of a longer summary, as a run leaves that is killed while it writes a shorter one.
    with (tmp_path / "out/results.json").open("ab") as file:
        file.write(b'ed": "terminated"}\n')
    with pytest.raises(ValueError, match=r"digest was .* choose another --output"):
        judge(model=other)
    (tmp_path / "out/results.csv").write_text("file,score\r\n")
    with pytest.raises(ValueError, match=r"results\.csv: has other columns"):
        judge()


def test_a_summary_that_is_torn_protects_its_table(
    judge: Callable[..., int], model: Path, tmp_path: Path
) -> None:
    write(tmp_path / "in/a.png", spots((5, 5, 20, 20)))
    out = tmp_path / "out"
    judge()
    (out / "results.json").write_bytes(b"")
    before = files(out)
    with pytest.raises(ValueError, match=r"results\.json cannot be read.* or remove results\.json"):
        infer_here(model, str(tmp_path / "in"), out)
    assert files(out) == before
    assert rows_of(out) == ["a.png"]


def test_pictures_of_what_an_image_was_before_are_removed(
    judge: Callable[..., int], tmp_path: Path
) -> None:
    latest, out = tmp_path / "in/latest.png", tmp_path / "out"
    write(latest, spots((5, 5, 20, 20)))
    judge()
    assert files(out) >= {"masks/latest.png", "overlays/latest.png.jpg"}
    write(latest, spots())
    os.utime(latest, (2000, 2000))
    judge(masks=False)
    assert files(out) & {"masks/latest.png", "overlays/latest.png.jpg"} == {
        "overlays/latest.png.jpg"
    }
    latest.write_bytes(b"no image")
    os.utime(latest, (3000, 3000))
    judge()
    assert [row["label"] for row in table(out)] == ["defective", "good", ""]
    assert not [*(out / "overlays").iterdir()]


def test_a_name_that_is_too_long_for_a_picture_is_a_row(
    judge: Callable[..., int], tmp_path: Path
) -> None:
    """Its pictures have longer ones; a run that it ended would begin with it again."""
    name = "a" * 249 + ".jpg"
    write(tmp_path / "in" / name, spots((5, 5, 20, 20)))
    for _ in range(2):
        judge()
        (row,) = table(tmp_path / "out")
        assert row["file"] == name
        assert "too long" in row["error"]


def test_pages_of_a_file_that_is_gone_after_the_first_are_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has marked the file as judged: nobody would come back for the others."""
    pages = [Image.fromarray(spots()) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])

    def away(*_: Any) -> Any:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr("anomalib_anoseg.inference.files._reader", lambda _: away)
    looking = Watch(tmp_path, tmp_path / "out", Stop())
    looking._look(0.0)
    frames = [*looking._frames(looking._look(1.0))]
    assert [(frame.name, bool(frame.error)) for frame in frames] == [
        ("a.tif#1", False),
        ("a.tif#2", True),
        ("a.tif#3", True),
    ]


def test_a_picture_is_noted_where_a_power_cut_leaves_it(
    judge: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "in/a.png", spots((5, 5, 20, 20)))
    judge(overlays=False)
    journal, mask = (tmp_path / "out" / name for name in (".pictures", "masks/a.png"))
    assert synced.index(journal.stat().st_ino) < synced.index(mask.stat().st_ino)


def test_a_file_that_cannot_be_opened_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that is away for a moment, a lock; after half a minute it is an error."""
    write(tmp_path / "a.png", spots())
    is_away = True
    opened = Path.open

    def away(path: Path, *args: Any, **options: Any) -> Any:
        if is_away and path.name == "a.png":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", away)
    looking = Watch(tmp_path, tmp_path / "out", Stop())

    def look() -> list[str]:
        looking._look(time.monotonic())
        names = looking._look(time.monotonic() + watch.SETTLED)
        return [frame.error for frame in looking._frames(names)]

    assert look() == []
    monkeypatch.setattr(watch, "PATIENCE", 0)
    (error,) = look()
    assert os.strerror(errno.ESTALE) in error
    monkeypatch.undo()
    assert look() == []  # once
    is_away, looking = False, Watch(tmp_path, tmp_path / "other", Stop())
    assert look() == [""]


def test_a_folder_that_cannot_be_looked_into_is_an_error_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.png", spots())
    for name in ("closed#3", "lost+found", ".Trash-0"):  # the last two are not the user's
        write(tmp_path / name / "b.png", spots())
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) != tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(watch, "PATIENCE", 0)
    looking = Watch(tmp_path, tmp_path / "out", Stop())
    looking._look(0.0)
    frames = [*looking._frames(looking._look(1.0))]
    assert sorted((frame.name, bool(frame.error)) for frame in frames) == [
        ("a.png", False),
        ("closed#3", True),
    ]
    looking._look(2.0)
    assert looking._look(3.0) == []


def test_a_run_without_watch_does_not_replace_its_results(
    judge: Callable[..., int], model: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write(source / "a.png", spots((5, 5, 20, 20)))
    lines = tmp_path / "lines.jsonl"
    judge(jsonl=str(lines))
    before = {path: path.read_bytes() for path in [lines, *out.rglob("*")] if path.is_file()}
    with pytest.raises(ValueError, match=r"results\.json is of infer --watch: choose another"):
        infer_here(model, str(source), out, jsonl=str(lines))
    assert {path: path.read_bytes() for path in before} == before
    assert judge() == 143
    for _ in range(2):  # those of another run are replaced, as ever
        assert infer_here(model, str(source), tmp_path / "other") == 0


def test_what_changes_no_row_does_not_end_a_run(
    judge: Callable[..., int], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder by another path, the model in another place, another installation and version."""
    write(tmp_path / "in/a.png", spots())
    judge()
    copy = copytree(model.parent, tmp_path / "copy") / model.name
    monkeypatch.chdir(tmp_path)
    for name in ("in", "in/", "copy/../in"):
        assert judge(model=copy, input=name) == 143
    monkeypatch.chdir(tmp_path / "in")
    assert judge(input=".") == 143
    said = summary(tmp_path / "out")
    assert said["input"] == str(tmp_path / "in")
    other = {"version": "0.1", "false_alarms": {"expected": 0.1}, "of a later version": 1}
    older = {name: value for name, value in said.items() if name != "smallest_defect"}
    for earlier in (json.dumps(said | other), json.dumps(older), "[]"):
        (tmp_path / "out/results.json").write_text(earlier)
        assert judge() == 143
    # As versions wrote it that did not resolve it.
    (tmp_path / "out/results.json").write_text(json.dumps(said | {"input": "../in/"}))
    assert judge() == 143
    assert rows_of(tmp_path / "out") == ["a.png"]


def test_another_model_in_the_same_place_is_another_model(
    judge: Callable[..., int], tmp_path: Path
) -> None:
    """With the thresholds of the first, and with weights alone that are others."""
    path = write_bright_spots(tmp_path / "model.xml")
    write(tmp_path / "in/a.png", spots())
    judge(model=path)
    judge(model=path)
    with path.with_suffix(".bin").open("ab") as weights:
        weights.write(b"another")
    with pytest.raises(ValueError, match=r"digest was \w{16}, now \w{16}: choose another --output"):
        judge(model=path)
    write_narrow(path)
    with pytest.raises(ValueError, match="digest was"):
        judge(model=path)


def test_the_summary_is_never_old(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, a video and a camera that is faster than the model are one round."""
    monkeypatch.setattr(command, "SUMMARISED", 2)
    written: list[int] = []
    monkeypatch.setattr(Records, "summarise", lambda self: written.append(self.counts["images"]))
    for index in range(5):
        write(tmp_path / f"in/{index}.png", spots())
    assert infer_here(model, str(tmp_path / "in"), tmp_path / "out") == 0
    assert written == [0, 2, 4, 5, 5]


def test_a_folder_that_disappears(
    judge: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write(source / "a.png", spots((5, 5, 20, 20)))
    assert judge(lambda: rmtree(source)) == 3
    assert f"{source}: can no longer be read" in capsys.readouterr().err
    assert rows_of(out) == ["a.png"]
    assert summary(out)["ended"].startswith(f"{source}: can no longer be read")
    with pytest.raises(FileNotFoundError, match="no such folder to watch"):
        judge()
    source.mkdir()
    # Another folder in its place, as where a share is no longer mounted.
    assert judge(lambda: source.rename(tmp_path / "away") and source.mkdir()) == 3
    assert "another folder is there now" in summary(out)["ended"]
    write(source / "a.png", spots())
    write(source / "b.png", spots())
    os.utime(source / "a.png", ns=(0, from_text(table(out)[0]["time"]) * 1000))
    judge()
    assert rows_of(out) == ["a.png", "b.png"]


def test_what_is_gone_before_its_turn_leaves_no_row(tmp_path: Path) -> None:
    write(tmp_path / "a.png", spots())
    write(tmp_path / "b.png", spots())
    looking = Watch(tmp_path, tmp_path / "out", Stop())
    (tmp_path / "a.png").unlink()
    assert [frame.name for frame in looking._frames(["a.png", "b.png"])] == ["b.png"]


def test_results_in_the_watched_folder_are_no_input(
    judge: Callable[..., int], model: Path, tmp_path: Path
) -> None:
    write(tmp_path / "in/masks/a.png", spots((5, 5, 20, 20)))  # a folder of the user's
    assert infer_here(model, str(tmp_path / "in"), tmp_path / "in/earlier") == 0
    (tmp_path / "out").symlink_to(tmp_path / "in")  # and the folder of its own results
    (tmp_path / "in/masks").rename(tmp_path / "in/parts")
    judge()
    assert rows_of(tmp_path / "out") == ["parts/a.png"]
    judge()
    assert rows_of(tmp_path / "out") == ["parts/a.png"]


def test_a_stop_comes_after_the_last_page_of_a_file(tmp_path: Path) -> None:
    """Half of a file would be taken for all of it by the next run."""
    pages = [Image.fromarray(spots()) for _ in range(4)]
    for name in ("a.tif", "b.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    stop = Stop()
    seen = []
    for frame in Files(tmp_path, [tmp_path / "a.tif", tmp_path / "b.tif"], stop):
        seen.append(frame.name)
        stop.how = "interrupted"
    assert seen == ["a.tif#1", "a.tif#2", "a.tif#3", "a.tif#4"]


def test_json_of_a_row() -> None:
    row = Row("a.png", "0.900000", "defective", "240", "60 40 20 10;10 20 8 5", "1970-01-01T00:00")
    assert as_json(row) == {
        "file": "a.png", "score": 0.9, "label": "defective", "defect_area": 240,
        "boxes": [[60, 40, 20, 10], [10, 20, 8, 5]], "time": "1970-01-01T00:00", "error": None,
    }  # fmt: skip
    assert as_json(Row("b.png", "0.1", "good", "0"))["boxes"] == []
    unread = as_json(Row("c.png", error="damaged"))
    assert {name for name, value in unread.items() if value is not None} == {"file", "error"}


@pytest.mark.parametrize("time", [0, 1, 1_764_220_556_123_456, -5])
def test_a_time_is_read_as_it_was_written(time: int) -> None:
    assert from_text(to_text(time)) == time


def test_a_time_that_no_calendar_has_is_left_out() -> None:
    assert to_text(2**62) == to_text(-(2**62)) == ""


def test_json_lines_go_on_in_a_file(judge: Callable[..., int], tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    for name in ("a.png", "b.png"):
        write(tmp_path / "in" / name, spots())
        judge(jsonl=str(lines))
    assert [json.loads(line)["file"] for line in lines.read_text().splitlines()] == [
        "a.png", "b.png",
    ]  # fmt: skip


def test_wrong_arguments(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "in/a.png", spots())
    folder, out = str(tmp_path / "in"), tmp_path / "out"
    with pytest.raises(ValueError, match="--every is for a video"):
        infer_here(model, folder, out, every=2)
    with pytest.raises(ValueError, match="--every is for a video"):
        infer_here(model, folder, out, watch=True, every=2)
    with pytest.raises(ValueError, match="--every must be 1 or more, got 0"):
        infer_here(model, "0", out, every=0)
    with pytest.raises(FileNotFoundError, match="no such folder to watch"):
        infer_here(model, f"{folder}/*.png", out, watch=True)
    with pytest.raises(IsADirectoryError, match=folder):
        infer_here(model, folder, out, jsonl=folder)
    assert not out.exists()


def test_every_nth_frame_of_a_video(tmp_path: Path) -> None:
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for grey in range(0, 200, 20):
        writer.write(np.full((64, 96, 3), (0, grey, 0), np.uint8))
    writer.release()
    source = opened(path, every=4)
    frames = frames_of(source)
    assert [frame.name for frame in frames] == ["000000", "000004", "000008"]
    assert (len(opened(path, every=4)), source.missing) == (3, "")
    for frame, grey in zip(frames, (0, 80, 160), strict=True):
        assert frame.image is not None
        assert abs(int(frame.image[32, 48, 1]) - grey) < 6
    assert names(path, every=5) == ["000000", "000005"]


class Camera:
    """A stand-in that gives a frame every 2 ms, and fifty of them."""

    def __init__(self, _: object) -> None:
        self.given = 0
        self.converted: list[int] = []

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def get(self, _: int) -> float:
        return 0.0

    def grab(self) -> bool:
        time.sleep(0.002)
        self.given += 1
        return self.given <= 50

    def retrieve(self) -> tuple[bool, Any]:
        self.converted.append(self.given - 1)
        return True, np.full((4, 6, 3), self.given - 1, np.uint8)

    def release(self) -> None:
        pass


def test_a_stream_that_is_faster_than_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are dropped; those that are judged are not late."""
    camera = Camera(0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: camera)
    source = opened("0")
    numbers, late = [], []
    for frames in source.rounds():
        for frame in frames:
            numbers.append(int(frame.name))
            late.append(camera.given - numbers[-1])
            assert frame.time > 0
            time.sleep(0.02)
    assert numbers == sorted(set(numbers))
    assert len(numbers) < 25
    assert np.median(late) <= 4  # two wait, one is on its way
    assert numbers[-1] == 49
    assert source.missing.startswith("0: ended after 50 frames")


def test_a_stream_gives_each_nth_frame_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: camera)
    stop = Stop()
    seen = []
    for frames in opened("rtsp://camera", every=10, stop=stop).rounds():
        for frame in frames:
            seen.append(frame.name)
            if len(seen) == 3:
                stop.how = "interrupted"
    assert seen == ["000000", "000010", "000020"]
    assert camera.converted == [0, 10, 20]  # no other was retrieved
    assert camera.given < 50


def test_a_login_is_nowhere_but_in_the_address(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address, out = "rtsp://user:s3cret@camera:554/1", tmp_path / "out"
    given: list[str] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: given.append(source) or Camera(0))
    assert infer_here(model, address, out) == 3
    assert given == [address]
    assert summary(out)["input"] == "rtsp://camera:554/1"
    assert summary(out)["ended"].startswith("rtsp://camera:554/1: ended after 50 frames")
    monkeypatch.setattr(Camera, "isOpened", lambda _: False)
    with pytest.raises(
        ValueError, match=r"^rtsp://camera:554/1: cannot be opened .* @ .* as .*%40"
    ):
        infer_here(model, address, out)
    with pytest.raises(FileNotFoundError, match=r"^rtsp:/camera:554/1: no such folder"):
        infer_here(model, address, out, watch=True)
    for slip in (":/user", ":/user?"):  # an address that is none is a path, or a pattern
        with pytest.raises(FileNotFoundError, match=r"^rtsp:/camera:554/1: no "):
            infer_here(model, address.replace("://user", slip), out)
    # Results of a version that wrote it down.
    written = (out / "results.json").read_text().replace("rtsp://", "rtsp://user:s3cret@")
    (out / "results.json").write_text(written)
    assert history(out) == 0
    page = (out / "history.html").read_text()
    assert page.count("rtsp://camera:554/1") == 2
    said = capsys.readouterr()
    assert "s3cret" not in page + said.out + said.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://a:b@c@camera", "rtsp://camera"),
        ("rtsp://admin:pa#ss@cam/1", "rtsp://cam/1"),
        ("rtsp://admin:p/a?s @s@cam/1", "rtsp://cam/1"),
        ("rtsp:/admin:pa/ss@cam/1", "rtsp:/cam/1"),
        ("rtsp://admin:12/34@cam/1: ended", "rtsp://cam/1: ended"),
        ("HTTP://user@[fe80::1]:80/x", "HTTP://[fe80::1]:80/x"),
        ("http://camera/a@b?c@d", "http://camera/a@b?c@d"),
        ("images/a@b", "images/a@b"),
        ("0", "0"),
    ],
)
def test_a_login_goes_and_what_is_none_stays(text: str, shown: str) -> None:
    assert without_login(text) == shown


@pytest.mark.usefixtures("_interruptible")
def test_the_first_signal_asks_and_the_second_one_ends() -> None:
    stop = Stop()
    with stop.on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.how == "interrupted"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop.end_as_asked()


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        stop = Stop()
        with stop.on_signals():
            os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.asked
        stop.end_as_asked()
    finally:
        signal.signal(signal.SIGTERM, before)


def started(model: Path, folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "anomalib_anoseg", "infer", f"--model={model}", "--jsonl", "-"]
    command += [f"--input={folder / 'in'}", f"--output={folder / 'out'}", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_result_comes_before_the_next_image(model: Path, tmp_path: Path, number: int) -> None:
    """A line for each image as soon as it is judged, and nothing else; then a signal."""
    (tmp_path / "in").mkdir()
    with started(model, tmp_path, "--watch") as process:
        assert process.stdout is not None
        lines = []
        for index in range(3):
            write(tmp_path / f"in/{index}.png", spots((5, 5, 20, 20)))
            lines.append(json.loads(process.stdout.readline()))
            assert rows_of(tmp_path / "out")[-1] == f"{index}.png"
            assert summary(tmp_path / "out")["ended"] == "running, or killed"
        (tmp_path / "in/broken.png").write_bytes(b"no image")
        lines.append(json.loads(process.stdout.readline()))
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert rest == b""
    assert b"Traceback" not in errors
    assert b"4 images: 0 good, 3 defective, 1 with errors" in errors
    assert [line["file"] for line in lines] == ["0.png", "1.png", "2.png", "broken.png"]
    assert lines[0]["boxes"] == [[5, 5, 20, 20]]
    assert rows_of(tmp_path / "out") == [line["file"] for line in lines]
    assert summary(tmp_path / "out")["images"] == 4
    ended = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    assert summary(tmp_path / "out")["ended"] == ended[signal.Signals(number)]


@pytest.mark.slow
def test_nobody_reads_what_is_written(model: Path, tmp_path: Path) -> None:
    """The first row is in the table before its line breaks the pipe; nothing is half recorded."""
    for index in range(40):
        write(tmp_path / f"in/{index:02}.png", spots((5, 5, 20, 20)))
    with started(model, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()  # long before it has something to say
        process.wait(timeout=60)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 141, errors
    assert errors.endswith(b"nobody reads what --jsonl writes\n")
    assert b"Traceback" not in errors
    assert b"Exception" not in errors
    assert rows_of(tmp_path / "out") == ["00.png"]
    assert summary(tmp_path / "out")["ended"] == "nobody reads what --jsonl writes"
