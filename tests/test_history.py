"""The page about a folder of infer's results.

Oracles: loops over all values, rows written by hand, and infer itself.
"""

import base64
import io
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import opened
from PIL import Image
from test_inference import infer, spots, write, write_bright_spots
from test_page import CONTRASTS

from anomalib_anoseg.inference.drift import Drift
from anomalib_anoseg.inference.frames import Frame
from anomalib_anoseg.inference.records import Records
from anomalib_anoseg.inference.segmenter import Prediction
from anomalib_anoseg.inference.table import Row, judged_files, line
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.report.history import BINS, extremes, read_history, running_share
from anomalib_anoseg.report.history_command import history

GOOD_SCORES = [0.1 + k / 200 for k in range(21)]  # 0.1 to 0.2
NASTY = '<img src=x onerror=alert(1)>,"\n.png'


def at(minute: float) -> str:
    moment = datetime(2026, 11, 27, 6, tzinfo=UTC) + timedelta(minutes=minute)
    return moment.isoformat(timespec="microseconds")


def row(name: str, score: float, minute: float = 0) -> Row:
    label, area = ("defective", "24") if score > 0.5 else ("good", "0")
    return Row(name, f"{score:.6f}", label, area, "1 2 6 4" if area != "0" else "", at(minute))


def folder_of(path: Path, *rows: Row, **about: Any) -> Path:
    """Write a folder of results as infer does."""
    said = {"model_file": "model.xml", "input": "in", "false_alarms": None} | about
    drift = Drift(GOOD_SCORES, 0.5)
    with Records(path, False, False, Thresholds(0.5, 0.4), said, drift) as records:
        for one in rows:
            records.append(one)
        records.ended = "complete"
    return path


def page_of(folder: Path, **options: Any) -> str:
    assert history(folder, **options) == 0
    return (folder / "history.html").read_text(encoding="utf-8")


def text_of(html: str, name: str) -> str:
    found = re.search(rf'<p id="{name}"[^>]*>(.*?)</p>', html, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("count", [1, 7, 5000])
def test_thinning_keeps_the_extremes_of_each_bin(count: int) -> None:
    rng = np.random.default_rng(count)
    x, y = np.sort(rng.random(count)) * 9 + 3, rng.random(count)
    thin = extremes(x, y, x[0], x[-1])
    bins: dict[int, list[int]] = {}
    for index in range(count):
        share = (x[index] - x[0]) / (x[-1] - x[0]) if count > 1 else 0
        bins.setdefault(min(BINS - 1, int(share * BINS)), []).append(index)
    expected = [
        (np.mean(x[which]), min(y[which]), max(y[which])) for _, which in sorted(bins.items())
    ]
    assert np.stack(thin, 1) == pytest.approx(np.array(expected))
    assert (min(thin.low), max(thin.high)) == (y.min(), y.max())


@pytest.mark.parametrize(("count", "latest"), [(3, 10), (40, 10), (200, 50), (1000, 100)])
def test_the_share_of_the_latest_is_a_loops(count: int, latest: int) -> None:
    defective = np.random.default_rng(0).random(count) < 0.3
    found, shares = running_share(defective)
    assert found == latest
    expected = [np.mean(defective[end - latest : end]) for end in range(latest, count + 1)]
    assert shares == pytest.approx(np.array(expected))


def test_what_the_page_says_is_what_is_in_the_folder(tmp_path: Path) -> None:
    alarms = {"good_images": 21, "asked": None, "expected": 0.05, "interval": [0.002, 0.14]}
    rows = [row(f"{i}.png", 0.12 + i / 1000, i) for i in range(12)]
    rows += [row("bad.png", 0.9, 12), Row("cut.png", time=at(13), error="cannot be read")]
    html = page_of(folder_of(tmp_path / "line", *rows, false_alarms=alarms))
    assert text_of(html, "counts") == (
        "14 images: 12 good, 1 defective (7.7 %), 1 with errors; "
        "of 2026-11-27 06:00:00 to 2026-11-27 06:12:00 UTC."
    )
    assert text_of(html, "drift") == "Good parts score as they did when the thresholds were set."
    assert "<h2>Scores over time</h2>" in html
    for said in ("image threshold</dt><dd>0.5<", "pixel threshold</dt><dd>0.4<", "complete</dd>"):
        assert said in html
    assert "5.0% (0.2% to 14.0%, 90% interval) of good parts are to be expected" in html
    for name in ("called good", "called defective", "image threshold", "usual for good parts"):
        assert f">{name}</text>" in html
    assert re.search(r"cut.png</th><td>2026-11-27 06:13:00</td><td>cannot be read<", html)
    assert "<h2>Scores in the order of judging</h2>" in page_of(tmp_path / "line", by="order")


def test_drift_is_said_where_one_looks_first(tmp_path: Path) -> None:
    rows = [row(f"{i}.png", 0.4 + i / 1000, i) for i in range(12)]
    html = page_of(folder_of(tmp_path, *rows))
    assert text_of(html, "drift").startswith("Drift: images called good score 0.26 higher than")
    assert '<p id="drift" class="look">' in html


def test_times_that_say_nothing_are_replaced_by_the_order(tmp_path: Path) -> None:
    rows = [row("a.png", 0.1, 1), row("b.png", 0.2, 1)]
    assert read_history(folder_of(tmp_path / "same", *rows)).times is None  # copied at once
    rows[1] = rows[1]._replace(time="")
    assert read_history(folder_of(tmp_path / "video", *rows)).times is None
    assert "in the order of judging" in page_of(tmp_path / "video")


def test_a_row_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    """Wherever the writing stands; the name holds a comma, quotes and the end of a line."""
    folder = folder_of(tmp_path, row("a.png", 0.1), row(NASTY, 0.7, 1))
    last = line(row(NASTY, 0.9, 2))
    whole = (folder / "results.csv").read_bytes()
    for length in range(len(last)):
        (folder / "results.csv").write_bytes(whole + last[:length])
        found = read_history(folder)
        assert found.scores.tolist() == [0.1, 0.7]
        assert [one.file for one in found.judged] == ["a.png", NASTY]
    (folder / "results.csv").write_bytes(whole + last)
    assert read_history(folder).images == 3
    html = page_of(folder)
    assert (folder / "results.csv").read_bytes() == whole + last
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    header = (folder / "results.csv").read_bytes()
    for length in (0, 9, len(header)):
        (folder / "results.csv").write_bytes(header[:length])
        html = page_of(folder)
        assert text_of(html, "nothing") == "No image has been judged yet."
        assert text_of(html, "counts").startswith("0 images: 0 good, 0 defective, 0 with errors")
        assert "<svg" not in html


def test_a_summary_that_is_being_written_is_read_or_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, row("a.png", 0.1), row("b.png", 0.7, 1))
    summary = (folder / "results.json").read_bytes()
    (folder / "results.json").write_bytes(summary + b'ed": "the end of a longer one"}\n')
    assert read_history(folder).about == json.loads(summary)
    for content in (b"", summary[:100], b"[]", b"\xff"):
        (folder / "results.json").write_bytes(content)
        assert "There is no results.json that says it" in page_of(folder)
    (folder / "results.json").unlink()
    html = page_of(folder)
    assert "2 images: 1 good, 1 defective" in html
    assert ">image threshold</text>" not in html


def test_the_page_of_a_run_that_goes_on(tmp_path: Path) -> None:
    drift = Drift(GOOD_SCORES, 0.5)
    with Records(tmp_path, False, False, Thresholds(0.5, 0.4), {}, drift) as records:
        for index in range(3):
            records.append(row(f"{index}.png", 0.7, index))
            html = page_of(tmp_path)
            assert text_of(html, "counts").startswith(f"{index + 1} images: 0 good")
            assert "running, or killed" in html
    assert read_history(tmp_path).images == 3  # the page has not disturbed it


def judged(records: Records, name: str, minute: int, score: float = 0.9) -> None:
    anomaly_map = np.zeros((40, 60), np.float32)
    anomaly_map[10:20, 20:40] = score
    image = np.full((400, 600, 3), 90, np.uint8)
    time = int(datetime.fromisoformat(at(minute)).timestamp() * 1e6)
    records.append(records.draw((Frame(name, image, time=time), Prediction(score, anomaly_map))))


def test_the_newest_defective_images_are_shown(tmp_path: Path) -> None:
    names = [f"{index}.png" for index in range(5)] + ["a.tif#2", "1.png", "gone.png", "broken.png"]
    with Records(tmp_path, False, True, Thresholds(0.5, 0.4), {}, Drift([], 0.5)) as records:
        for minute, name in enumerate(names):
            judged(records, name, minute)
        judged(records, "good.png", 20, score=0.2)
    (tmp_path / "overlays/gone.png.jpg").unlink()
    (tmp_path / "overlays/broken.png.jpg").write_bytes(b"\xff\xd8\xff")
    html = page_of(tmp_path, newest=8)
    cards = re.findall(r"<li>(.*?)</li>", html, re.DOTALL)
    shown = [re.search(r"<p>(.*?)</p>", card) for card in cards]
    assert [found and found[1] for found in shown] == names[::-1][:8]
    assert "there is no overlay" in cards[1]
    assert "no picture: " in cards[0]
    assert "the file was written and judged again" in cards[-1]  # 1.png, whose picture is another's
    assert "2026-11-27 06:06:00 UTC" in cards[2]
    assert "score 0.900, 20" in cards[2]
    for card in cards[2:-1]:
        encoded = re.search(r"base64,([^\"]+)", card)
        assert encoded is not None
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[1]))).convert("RGB"))
        assert picture.shape == (171, 256, 3)
        red = (picture[..., 0].astype(int) - picture[..., 1]) > 60
        assert 0.3 < np.flatnonzero(red.any(0)).mean() / 256 < 0.7
    assert "<li>" not in page_of(tmp_path, newest=0)


@pytest.mark.filterwarnings("error")
def test_overlays_of_any_size_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small limit of Pillow's stands for a large overlay."""
    with Records(tmp_path, False, True, Thresholds(0.5, 0.4), {}, Drift([], 0.5)) as records:
        judged(records, "a.png", 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "no picture: " not in page_of(tmp_path)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_page_of_20_000_images_is_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.beta(2, 5, 20_000)
    folder_of(tmp_path, *(row(f"{i}.png", s, i / 10) for i, s in enumerate(scores.tolist())))
    html = page_of(tmp_path)
    assert "20,000 images" in html
    assert len(html) < 1e6


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"results\.csv: no such file: give the folder that infer has written to"),
        (b"a,b\r\n1,2\r\n", "has other columns than file, score"),
        (line(Row._fields) + b"a.png,0.5\r\n", "row 1 has 2 columns of 7"),
        (line(Row._fields) + line(row("a", 0.1)) + line(Row("b", "much")), "row 2 has a score or"),
        (line(Row._fields) + line(Row("b", "0.5", time="noon")), "row 1 has a score or a time"),
        (line(Row._fields) + line(Row("b", "0.5", time="2026-11-27")), "row 1 has a score or a"),
    ],
)
def test_what_is_no_result_is_refused(content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=words):
        history(tmp_path)
    assert not (tmp_path / "history.html").exists()


def test_a_row_may_be_long(tmp_path: Path) -> None:
    """10,000 defects in one image: csv's own limit is 131,072 characters."""
    many = row("a.png", 0.9)._replace(boxes=";".join(["1000 1000 10 10"] * 10_000))
    folder = folder_of(tmp_path, many, row("b.png", 0.1, 1))
    found = read_history(folder)
    assert found.judged == [many, row("b.png", 0.1, 1)]
    assert judged_files(folder / "results.csv").keys() == {"a.png", "b.png"}


def test_a_summary_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, row("a.png", 0.1))
    (folder / "results.json").write_text('{"drift": {"verdict": "unchanged"}}')
    with pytest.raises(ValueError, match=r"results\.json: another version of infer wrote it"):
        history(folder)
    with pytest.raises(ValueError, match="--newest must be at least 0"):
        history(folder, newest=-1)


def test_a_score_that_is_no_number_is_not_drawn(tmp_path: Path) -> None:
    nan = Row("b.png", "nan", "good", "0", "", at(1))
    found = read_history(folder_of(tmp_path, row("a.png", 0.1), nan))
    assert (found.images, found.scores.tolist()) == (2, [0.1])


@pytest.mark.slow
def test_the_command_after_infer_and_without_torch(tmp_path: Path) -> None:
    model = write_bright_spots(tmp_path / "model.xml")
    write(tmp_path / "in/good.png", spots())
    write(tmp_path / "in/defective.png", spots((60, 40, 20, 10)))
    out = tmp_path / "out"
    assert infer(model=model, input=tmp_path / "in", output=out).returncode == 0
    code = f"import sys; sys.argv[1:] = ['history', {str(out)!r}, '--newest', '3']\n"
    code += "from anomalib_anoseg.__main__ import main\nstatus = main()\n"
    code += "assert not {'torch', 'anomalib', 'lightning'} & {*sys.modules}; sys.exit(status)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{out / 'history.html'}\n"), done.stderr
    html = (out / "history.html").read_text()
    assert "2 images: 1 good, 1 defective (50.0 %), 0 with errors" in html
    assert html.count('alt="defective.png with its defects outlined"') == 1
    done = subprocess.run(
        [sys.executable, "-m", "anomalib_anoseg", "history", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_read(scheme: str, chromium: Any, tmp_path: Path) -> None:
    rows = [row(f"{i}.png", 0.4 + i / 50, i) for i in range(30)]
    rows.append(Row("cut.png", time=at(40), error="cannot be read"))
    folder = folder_of(tmp_path, *rows)
    page_of(folder)
    view = {"width": 400, "height": 800}
    path = folder / "history.html"
    with opened(chromium, path, "svg", viewport=view, color_scheme=scheme) as (tab, said):
        assert tab.evaluate("document.documentElement.scrollWidth") == 400
        contrasts = tab.evaluate(CONTRASTS)
        assert {"image score", "cannot be read"} <= {text for _, text in contrasts}
        assert [pair for pair in contrasts if pair[0] < 4.5] == []
        assert not said
