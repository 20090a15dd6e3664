"""The pages and tables about results."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from anomalib.engine import Engine
from conftest import noisy_batch, opened, segmenter
from PIL import Image
from test_export_command import save

from anomalib_anoseg import AnoSeg, PostProcessor, PreProcessor, SurfaceDemo
from anomalib_anoseg.__main__ import COMMANDS
from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.report.comparison import Cell, compare, markdown, missing
from anomalib_anoseg.report.examples import Example, Failure, make_examples, worst_first
from anomalib_anoseg.report.model_command import page as write_page
from anomalib_anoseg.report.pages import Scores, comparison_page, model_page
from anomalib_anoseg.report.runs import Results, Run, read_results
from anomalib_anoseg.report.thumbnails import small
from anomalib_anoseg.utils.configs import config_path

HALF = Thresholds(0.5, 0.5)
NASTY = "<img src=x onerror=alert(1)>|`"


def run(model: str, category: str, iou: float, seed: int = 0) -> Run:
    return Run(model, category, str(seed), {"pixel_IoU": iou}, 1.0, "a CPU")


def test_mean_spread_and_places_by_hand() -> None:
    runs = [
        run("A", "bottle", 0.4, seed=0), run("A", "bottle", 0.6, seed=1), run("A", "tile", 0.8),
        run("B", "bottle", 0.7), run("C", "bottle", 0.1), run("C", "tile", 0.2),
        *(run("no maps", c, 0)._replace(metrics={}) for c in ("bottle", "tile")),
    ]  # fmt: skip
    (table,) = compare(runs)
    assert table.metric == "IoU"
    assert table.columns == ["bottle", "tile", "mean"]
    spread = np.std([0.4, 0.6], ddof=1)
    assert table.rows["A"][0] == Cell(pytest.approx(0.5), pytest.approx(spread), 2)  # type: ignore[arg-type]
    assert [c.place for c in table.rows["A"]] == [2, 1, 1]
    assert [str(c) for c in table.rows["B"]] == ["0.700", "not run", "-"]
    assert table.rows["C"][2] == Cell(pytest.approx(0.15), None, 2)  # type: ignore[arg-type]
    assert [str(c) for c in table.rows["no maps"]] == ["-", "-", "-"]
    assert missing(runs) == ["B on tile"]
    text = markdown([table], runs)
    assert "| B | **0.700** | not run | - |" in text
    assert "Not run: B on tile." in text


def benchmark_csv(path: Path, colours: str = "") -> None:
    rows = [
        {"accelerator": "cpu", "fit_duration": 60, "model.class_path": "anomalib.models.AnoSeg",
         "model.init_args.patches": patches, "data.class_path": "MVTecAD", "seed": 7,
         "data.init_args.category": "bottle", "image_AUROC": 0.9}
        for patches in ("[1, 1]", "[1, 3]")
    ]  # fmt: skip
    for row in rows if colours else ():
        row["model.init_args.colour_share"] = colours
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def accuracy_json(path: Path) -> None:
    metrics = {"image_AUROC": 0.8, "pixel_IoU": 0.5, "minutes": 3.0, "image_F1Max": 1.0}
    about = {"name": "AnoSeg", "category": "tile", "seed": 7, "device": "a CPU", "commit": "abc"}
    path.write_text(json.dumps(about | {"metrics": metrics}))


def test_what_anomalib_and_the_scripts_write_is_read(tmp_path: Path) -> None:
    benchmark_csv(tmp_path / "results.csv")
    accuracy_json(tmp_path / "run.json")
    rows = {"AnoSeg": {"ms_per_image": [3.0, 1.0, 2.0]}}
    latencies = tmp_path / "OpenVINO,_batch_1,_256_x_256.json"
    latencies.write_text(json.dumps({"rows": rows}))
    (tmp_path / "other.json").write_text("[1]")
    benchmark_csv(tmp_path / "later.csv", colours="0.0")
    (tmp_path / "weights.csv").write_text("a,b\n1,2\n")
    runs, latency = read_results([tmp_path, tmp_path / "run.json"])
    assert [(r.model, r.category, r.seed, r.minutes) for r in runs] == [
        ("AnoSeg, patches [1, 1], colour_share 0.0", "bottle", "7", 1.0),
        ("AnoSeg, patches [1, 3], colour_share 0.0", "bottle", "7", 1.0),
        ("AnoSeg, patches [1, 1]", "bottle", "7", 1.0),
        ("AnoSeg, patches [1, 3]", "bottle", "7", 1.0),
        ("AnoSeg", "tile", "7", 3.0),
    ]
    assert runs[-1].metrics == {"image_AUROC": 0.8, "pixel_IoU": 0.5}
    assert latency == {"AnoSeg": 2.0}


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anomalib_anoseg", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_table_that_is_none_of_anomalibs_is_passed_over(tmp_path: Path) -> None:
    """As infer's, with a longer field than csv takes."""
    benchmark_csv(tmp_path / "a.csv")
    alone = read_results([tmp_path])
    other = tmp_path / "results.csv"
    other.write_text("file,boxes\na.png," + "1" * 2**18)
    limit = csv.field_size_limit(2**17)
    try:
        assert read_results([tmp_path]) == alone
        with pytest.raises(ValueError, match=f"^{other}: neither results of .*field limit"):
            read_results([other])
    finally:
        csv.field_size_limit(limit)


def test_report_command(tmp_path: Path) -> None:
    benchmark_csv(tmp_path / "results.csv")
    accuracy_json(tmp_path / "run.json")
    files = [tmp_path / "results.csv", tmp_path / "run.json"]
    done = command("report", *files, "--output", tmp_path / "out/report.html")
    assert done.returncode == 0, done.stderr
    assert "| AnoSeg | not run |" in (tmp_path / "out/report.md").read_text()
    assert "not run" in (tmp_path / "out/report.html").read_text()
    (tmp_path / "folder.json").mkdir()
    done = command("report", tmp_path, "--output", tmp_path / "report.md")
    assert "output is the page, and Markdown is written beside it" in done.stderr
    assert command("report", tmp_path, "--output", tmp_path / "report.html").returncode == 0


@pytest.mark.parametrize("content", [None, "no json", '{"metrics": {}}', "[]"])
def test_wrong_results_are_one_line_with_their_name(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    done = command("report", path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {path}: ")
    done = command("report", tmp_path)
    assert "no results in" in done.stderr


@pytest.mark.parametrize("name", ["infer", "report", "page", "history", "sheet", "validate"])
def test_each_command_has_help(name: str) -> None:
    done = command(name, "--help")
    assert done.returncode == 0
    assert "--output" in done.stdout
    assert f"usage: anomalib-anoseg {name}" in done.stdout
    assert name == "report" or "exit status: 0" in done.stdout


def test_the_list_of_commands_needs_no_torch() -> None:
    code = "import sys; sys.argv[1:] = {}; from anomalib_anoseg.__main__ import main\n"
    code += "try: status = main()\nexcept SystemExit as end: status = end.code\n"
    code += "assert 'torch' not in sys.modules; sys.exit(status)"
    for arguments, status in ((["--help"], 0), (["config"], 0), (["other"], 2), ([], 2)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
    for name in COMMANDS:
        assert f"  {name}  " in command("--help").stdout


def test_configurations_have_names() -> None:
    names = command("config").stdout.split()
    assert {"cpu", "fast", "paper", "benchmark/demo"} <= set(names)
    for name in names:
        assert config_path(name).suffix == ".yaml"
        assert config_path(name).is_file()
    assert command("config", "cpu").stdout == f"{config_path('cpu')}\n"
    done = command("config", "gpu")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "cpu, fast" in done.stderr


def test_names_are_escaped() -> None:
    results = Results([run(NASTY, NASTY, 0.5), run("B", NASTY, 0.4)], {NASTY: 1.0, "B": 2.0})
    tables = compare(results.runs)
    example = Example(NASTY, NASTY, True, False, 0.2, "data:,", 1.0, None, "data:,", 0.0)
    failure = Failure(NASTY, NASTY)
    for page in (
        comparison_page(results, tables),
        model_page(NASTY, {"pixel_IoU": 0.5}, {}, [example], [failure], HALF, Scores([], [0.2])),
        markdown(tables, results.runs),
    ):
        assert "<img src=x" not in page
        assert "&lt;img src=x" in page
    assert "> |" not in markdown(tables, results.runs).replace(r"\|", "")


def test_the_worst_are_kept() -> None:
    scores = np.random.default_rng(0).permutation(100) / 100
    examples = [
        Example(str(i), "", bool(i % 2), False, float(score), "", 1.0, None, "", 0.0)
        for i, score in enumerate(scores)
    ]
    kept = worst_first(examples, 7)
    assert kept == sorted(examples, key=lambda e: -e.error)[:7]
    assert {e.outcome for e in examples} == {"miss", "correct"}


def test_a_small_defect_of_a_large_map_is_seen() -> None:
    large = torch.zeros(1, 1, 1024, 512)
    large[..., 500:502, 300] = 0.8
    reduced = small(large, highest=True)
    assert reduced.shape == (1, 256, 128)
    assert reduced.max() == large.max()
    assert small(large).max() == pytest.approx(0.8 * 2 / 16)  # as means, of pictures


def test_a_page_of_less_than_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--most must be at least 0 images, got -1"):
        write_page(tmp_path / "model.ckpt", Mock(), most=-1)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, demo_root: Path) -> tuple[Path, AnoSeg]:
    """Train for a moment, and write the page as a user would; not at thresholds of 0.5."""
    folder = tmp_path_factory.mktemp("page")
    data = SurfaceDemo(demo_root, category="part", train_batch_size=4, num_workers=0)
    model = AnoSeg(
        backbone="mobilenetv3_small_050",
        pre_processor=PreProcessor((64, 96)),
        post_processor=PostProcessor(image_sensitivity=0.6, pixel_sensitivity=0.7),
        visualizer=False,
        evaluator=False,
        seed=0,
    )
    engine = Engine(
        max_epochs=16, check_val_every_n_epoch=16, logger=False, default_root_dir=folder,
        accelerator="cpu",
    )  # fmt: skip
    engine.fit(model, datamodule=data)
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    done = command(
        "page", "--ckpt_path", folder / "model.ckpt", "--output", folder / "page.html",
        "--device", "cpu", "--data", "SurfaceDemo", "--data.root", demo_root,
        "--data.category", "part",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "page.html", model.eval()


@pytest.mark.slow
@pytest.mark.xdist_group("page")
def test_maps_and_verdicts_are_the_models(page: tuple[Path, AnoSeg], demo_root: Path) -> None:
    path, model = page
    html = path.read_text()
    data = SurfaceDemo(demo_root, category="part", num_workers=0)
    data.setup("test")
    assert html.count("<tr data-kind") == len(data.test_data)
    for item in [data.test_data[index] for index in (0, 5, 11)]:
        with torch.no_grad():
            answer = model(item.image[None])
        name = "/".join(Path(item.image_path).parts[-2:])
        row = html[html.index(f'data-name="{name}"') :].partition("</tr>")[0]
        told = re.search(r'data-score="([^"]+)"', row)
        assert told is not None
        assert float(told[1]) == pytest.approx(float(answer.pred_score), abs=1e-5)
        encoded = re.search(r'data-map="data:image/webp;base64,([^"]+)"', row)
        assert encoded is not None
        picture = Image.open(io.BytesIO(base64.b64decode(encoded[1])))
        levels = np.asarray(picture.convert("L"))
        expected = (answer.anomaly_map[0, 0] * 256).clamp(0, 255).byte().numpy()
        assert np.abs(levels.astype(int) - expected).max() <= 1
        undecided = (answer.anomaly_map - 0.3).abs()[0, 0].numpy() < 1 / 256
        assert (((levels > 0.3 * 256) == answer.pred_mask[0, 0].numpy()) | undecided).all()
        area = re.search(r'data-area="([^"]+)"', row)
        assert area is not None
        assert float(area[1]) == pytest.approx(float(answer.pred_mask.float().mean()), abs=1e-3)
        assert re.search(r"<figcaption>\(\d+, \d+\) of 96 \u00d7 64<", row)
        near = re.search(r"<figcaption>\(\d+, \d+\) of (good/[^<]+)<", row)
        assert near is not None
        assert (demo_root / "part/train" / near[1]).is_file()
    assert "defective above a score of 0.4, a pixel above 0.3 of" in html
    assert 'step="0.001" value="0.300"' in html


@pytest.mark.slow
def test_a_model_that_makes_no_masks_has_the_same_page(tmp_path: Path, demo_root: Path) -> None:
    """Oracle: the page of the same weights with masks."""
    data = SurfaceDemo(demo_root, category="part", num_workers=0)

    def page_of(post_processor: PostProcessor | bool) -> str:
        torch.manual_seed(0)
        path = save(segmenter(seed=0, post_processor=post_processor), tmp_path / "model.ckpt")
        assert write_page(path, data, tmp_path / "page.html", device="cpu") == 0
        html = (tmp_path / "page.html").read_text()
        return re.sub(r"\b[mp][0-9a-f]{10}\b", "", html)  # random names in matplotlib's figures

    assert page_of(PostProcessor(enable_thresholding=False)) == page_of(PostProcessor())
    with pytest.raises(ValueError, match="this model has no post-processor, and so no thresholds"):
        page_of(post_processor=False)


@pytest.mark.slow
@pytest.mark.xdist_group("page")
def test_page_asks_for_nothing(page: tuple[Path, AnoSeg]) -> None:
    html = page[0].read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html)
    # What is left are names of namespaces in the figures.
    assert not re.findall(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org)", html)


def test_a_page_of_200_images_is_small() -> None:
    """Also if their maps are as noisy as photographs."""
    (example,) = make_examples(noisy_batch(), torch.ones(1, 1, 256, 256), 0.5)
    assert len(model_page("200", {}, {}, 200 * [example], [], HALF, Scores([], 200 * [1.0]))) < 15e6


@pytest.mark.slow
@pytest.mark.xdist_group("page")
def test_a_checkpoint_that_is_none_is_one_line(page: tuple[Path, AnoSeg], tmp_path: Path) -> None:
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes((page[0].parent / "model.ckpt").read_bytes()[:1000])
    for path in (cut, tmp_path / "none.ckpt"):
        done = command("page", "--ckpt_path", path, "--data", "SurfaceDemo")
        assert done.returncode == 2
        assert f"error: {path}: " in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("page")
def test_one_bad_image_is_an_entry_and_a_bad_mask_is_refused(
    page: tuple[Path, AnoSeg], demo_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(demo_root / "part", root / "part")
    bad, deep = sorted((root / "part/test/good").glob("*.png"))[:2]
    whole = bad.read_bytes()
    bad.write_bytes(whole[:200])
    grey = np.asarray(Image.open(deep).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(deep)
    arguments = [
        "--ckpt_path", page[0].parent / "model.ckpt", "--output", tmp_path / "page.html",
        "--data", "Folder", "--data.val_split_mode", "same_as_test", "--data.name", "part",
        "--data.root", root / "part",
        "--data.normal_dir", "train/good", "--data.normal_test_dir", "test/good",
        "--data.abnormal_dir", "test/hole", "--data.mask_dir", "ground_truth/hole",
    ]  # fmt: skip
    done = command("page", *arguments, "--device", "cpu")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    html = (tmp_path / "page.html").read_text()
    assert re.search(rf"<li>good/{bad.name}: .+</li>", html)
    assert f'data-name="good/{bad.name}"' not in html
    assert f'data-name="good/{deep.name}"' in html

    mask = min((root / "part/ground_truth/hole").glob("*.png"))
    Image.open(mask).resize((30, 20)).save(mask)
    for options, words in (
        (("--device", "cpu"), f"mask {mask} has 20 x 30 pixels"),
        (("--device", "cuda:9"), "--device cuda:9 is not there; this computer has cpu"),
        (("--device", "cpu", "--output", root), f"output must be a file, got the folder {root}"),
    ):
        done = command("page", *arguments, *options)
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert words in line
        assert "Traceback" not in done.stderr


@pytest.fixture
def browser(chromium: Any, page: tuple[Path, AnoSeg]) -> Iterator[tuple[Any, list[str]]]:
    """Open the page in a browser."""
    with opened(chromium, page[0]) as found:
        yield found


def column(tab: Any, number: int) -> list[str]:
    texts = tab.locator(f"#images tbody tr:visible > :nth-child({number})").all_inner_texts()
    return [text.strip() for text in texts]


@pytest.mark.slow
@pytest.mark.xdist_group("page")
def test_page_sorts_filters_and_redraws(browser: tuple[Any, list[str]]) -> None:
    tab, said = browser
    everything = column(tab, 1)
    errors = [float(text) for text in column(tab, 4)]
    assert errors == sorted(errors, reverse=True)  # worst first

    tab.get_by_role("button", name="score").click()
    scores = [float(text) for text in column(tab, 3)]
    assert scores == sorted(scores, reverse=True)
    tab.get_by_role("button", name="score").press("Enter")  # by keyboard, the other way round
    assert [float(text) for text in column(tab, 3)] == sorted(scores)
    assert tab.locator("th[aria-sort]").inner_text() == "score"
    assert tab.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"

    tab.get_by_label("Kind").select_option("hole")
    shown = column(tab, 1)
    assert shown
    assert all(name.startswith("hole/") for name in shown)
    assert tab.locator("#status").inner_text() == f"{len(shown)} of {len(everything)} images"
    tab.get_by_label("Kind").select_option("")
    for outcome in ("correct", "false alarm", "miss"):
        tab.get_by_label("Verdict").select_option(outcome)
        assert set(column(tab, 2)) <= {outcome}
    tab.get_by_label("Verdict").select_option("")
    assert sorted(column(tab, 1)) == sorted(everything)

    def marked(tolerance: float = 0.001) -> list[float]:
        """Return the white share of each mask, and check that the table says the same."""
        shares = tab.evaluate("""() => [...document.querySelectorAll(".mask")].map((canvas) => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return data.filter((v, i) => i % 4 === 0 && v === 255).length / (width * height);
        })""")
        told = [float(text.rstrip(" %")) / 100 for text in column(tab, 5)]
        assert told == pytest.approx(shares, abs=tolerance)
        return shares

    slider = tab.get_by_label("Pixel threshold")
    middle = marked(0.005)  # exact in the table, of maps of 256 levels in the picture
    slider.fill("0.1")
    more = marked()
    slider.fill("0.9")
    fewer = marked()
    assert sum(fewer) < sum(middle) < sum(more)
    assert all(a <= b <= c for a, b, c in zip(fewer, middle, more, strict=True))
    assert not said
