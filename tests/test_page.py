"""The page of a model as a browser shows it.

Oracles: verdicts counted by hand, colours blended by hand, WCAG's formula of contrast, and what
chromium tells a screen reader.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from conftest import opened
from PIL import Image

from anomalib_anoseg.inference.thresholds import Thresholds
from anomalib_anoseg.report import plots
from anomalib_anoseg.report.examples import Example, Failure
from anomalib_anoseg.report.nearest import Comparison, Place
from anomalib_anoseg.report.pages import Scores, model_page
from anomalib_anoseg.report.thumbnails import levels, photograph

SHADE, MAP_LEVEL = 0.5, 100 / 256  # of every pixel of an image, and of its map
PLACES = ((8, 12), (20, 40))  # row and column of the highest of two defects, of 32 and 48
CONTROLS = {"button", "slider", "combobox", "radio", "image", "dialog", "table", "group"}
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]


def example(name: str, score: float, threshold: float = 0.5, *, masked: bool = True) -> Example:
    kind = name.partition("/")[0]
    crop = photograph(torch.full((3, 8, 8), SHADE))
    return Example(
        name, kind, kind != "good", score > threshold, score,
        image=photograph(torch.full((3, 32, 48), SHADE)), ratio=1.5,
        mask=levels(torch.ones(1, 32, 48)) if masked else None,
        anomaly_map=levels(torch.full((1, 32, 48), MAP_LEVEL)), area=0.0,
        comparisons=[
            Comparison(Place(row, column, crop), Place(1, 2, crop), "good/a.png", "", 32, 48)
            for row, column in PLACES
        ],
    )  # fmt: skip


HAND = {
    "good/a.png": 0.1, "good/b.png": 0.4, "good/c.png": 0.6,
    "hole/d.png": 0.3, "hole/e.png": 0.7, "hole/f.png": 0.9,
}  # fmt: skip


def page_of(
    path: Path, scores: dict[str, float], threshold: float = 0.5, *, masked: bool = True
) -> Path:
    examples = [example(*item, threshold, masked=masked) for item in scores.items()]
    good = [e.score for e in examples if not e.defective]
    all_of_them = Scores(good, [e.score for e in examples if e.defective])
    svgs = {"Scores": plots.score_histogram(*all_of_them, threshold)}
    figures = {"image_AUROC": 0.5} if all(all_of_them) else {}
    failures = [Failure("good/broken.png", "cannot be read")]
    thresholds = Thresholds(threshold, 0.5)
    examples.sort(key=lambda e: -e.error)
    html = model_page("part", figures, svgs, examples, failures, thresholds, all_of_them)
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture
def hand(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    """Open the page of six images whose scores are above; nothing may be on its console."""
    with opened(chromium, page_of(tmp_path / "page.html", HAND)) as (tab, said):
        yield tab
        assert not said


def verdicts(tab: Any) -> dict[str, str]:
    rows = tab.locator("#images tbody tr")
    names, said = (rows.locator(part).all_inner_texts() for part in (".name", ".outcome"))
    return dict(zip(map(str.strip, names), said, strict=True))


def test_the_image_threshold_counts_false_alarms_and_misses(hand: Any) -> None:
    counts, slider = hand.locator("#counts"), hand.get_by_label("Image threshold")
    before = verdicts(hand)
    for value, false_alarms, misses in (
        ("0.65", 0, 1), ("0.2", 2, 0), ("0", 3, 0), ("1", 0, 3), ("0.4", 1, 1), ("0.5", 1, 1),
    ):  # fmt: skip
        slider.fill(value)
        told = f"False alarms: {false_alarms} of 3 good; misses: {misses} of 3 defective"
        assert counts.inner_text() == told
        assert hand.locator("#image-threshold-value").inner_text() == f"{float(value):.3f}"
        found = [*verdicts(hand).values()]
        assert (found.count("false alarm"), found.count("miss")) == (false_alarms, misses)
    assert verdicts(hand) == before == {
        "good/a.png": "correct", "good/b.png": "correct", "good/c.png": "false alarm",
        "hole/d.png": "miss", "hole/e.png": "correct", "hole/f.png": "correct",
    }  # fmt: skip
    slider.press("ArrowRight")
    assert hand.locator("#image-threshold-value").inner_text() == "0.501"
    hand.get_by_label("Verdict").select_option("miss")
    slider.fill("0.8")
    names = hand.locator("#images tbody tr:visible .name").all_inner_texts()
    assert names == ["hole/d.png", "hole/e.png"]


def test_the_models_own_threshold_is_exact(chromium: Any, tmp_path: Path) -> None:
    """The slider's steps are of 0.001; 0.33334 is above the model's threshold of 0.3333."""
    scores = {"good/a.png": 0.3333, "good/b.png": 0.33334, "hole/c.png": 0.3332}
    with opened(chromium, page_of(tmp_path / "page.html", scores, 0.3333)) as (tab, said):
        told = "False alarms: 1 of 2 good; misses: 1 of 1 defective"
        assert tab.locator("#counts").inner_text() == told
        slider = tab.get_by_label("Image threshold")
        slider.fill("0.333")
        assert tab.locator("#counts").inner_text().startswith("False alarms: 2 of 2")
        tab.get_by_role("button", name="Reset thresholds").click()
        assert tab.locator("#counts").inner_text() == told
        assert slider.input_value() == "0.333"
        assert not said


def test_the_area_is_the_models_until_the_slider_moves(hand: Any) -> None:
    """Of a large map the page has a smaller one; here one that is as high everywhere."""
    area = hand.locator("#images tbody tr").first.locator(".area")
    assert area.inner_text() == "0.0 %"
    slider = hand.locator("#threshold")
    for value, said in ((MAP_LEVEL / 2, "100.0 %"), (0.5, "0.0 %")):
        slider.evaluate(
            "(input, to) => { input.value = to; input.dispatchEvent(new Event('input')); }", value
        )
        assert area.inner_text() == said


def test_counts_are_of_all_images_that_were_judged(chromium: Any, tmp_path: Path) -> None:
    """Also of those that the page has no room for."""
    scores = Scores([0.1, 0.2, 0.9], [0.3])
    shown = [example("good/c.png", 0.9)]
    html = model_page("part", {}, {}, shown, [], Thresholds(0.5, 0.5), scores)
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    with opened(chromium, path) as (tab, _):
        told = "False alarms: 1 of 3 good; misses: 1 of 1 defective"
        assert tab.locator("#counts").inner_text() == told
        assert tab.locator("caption").inner_text().startswith("1 of 4 test images")


def test_the_line_in_the_plot_of_scores_moves(hand: Any) -> None:
    for value in ("0.5", "0.1", "0.85"):
        hand.get_by_label("Image threshold").fill(value)
        line, axes = (
            hand.evaluate(
                "id => { const { x, width } = document.getElementById(id).getBoundingClientRect();"
                "return [x, width]; }",
                name,
            )
            for name in ("threshold-line", "score-axes")
        )
        share = (line[0] + line[1] / 2 - axes[0]) / axes[1]
        assert share == pytest.approx(float(value), abs=0.01)


def middle(tab: Any, selector: str) -> np.ndarray:
    """Return the colour that is seen in the middle of an element."""
    png = tab.locator(selector).screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)
    return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]


@pytest.mark.parametrize("place", ["tbody tr:first-child .stack", "#detail .stack"])
def test_the_map_lies_over_the_image_as_opaque_as_asked(hand: Any, place: str) -> None:
    if "detail" in place:
        hand.locator("tbody button").first.click()
        hand.locator("#marks").evaluate("marks => marks.remove()")
    inferno = 255 * np.array(mpl.colormaps["inferno"](100)[:3])
    for percent in (0, 60, 100):
        hand.get_by_label("Map over image").fill(str(percent))
        assert hand.locator("#opacity-value").inner_text() == f"{percent} %"
        opacity = percent / 100 * (2 * 100 / 255)  # opaque from the middle of the scale on
        blended = opacity * inferno + (1 - opacity) * 255 * SHADE
        assert middle(hand, place) == pytest.approx(blended, abs=4)


def test_the_keyboard_walks_the_images(hand: Any) -> None:
    """Worst first: d scores 0.3 and c 0.6, which are 0.7 and 0.6 wrong."""
    order = ["hole/d.png", "good/c.png", "good/b.png", "hole/e.png", "good/a.png", "hole/f.png"]
    name, dialog = hand.locator("#detail-name"), hand.get_by_role("dialog")
    assert not dialog.is_visible()
    hand.locator("tbody button").first.focus()
    hand.keyboard.press("Enter")
    for number, expected in enumerate(order, 1):
        assert name.inner_text() == expected
        assert f"image {number} of 6" in hand.locator("#detail-says").inner_text()
        hand.keyboard.press("ArrowRight")
    assert name.inner_text() == order[-1]  # there is no other
    for _ in range(2):
        hand.keyboard.press("ArrowLeft")
    assert name.inner_text() == order[3]
    assert "defective, correct, score 0.700" in hand.locator("#detail-says").inner_text()

    opacity = hand.get_by_label("Map over image")
    opacity.press("ArrowRight")  # is the slider's there
    assert (name.inner_text(), opacity.input_value()) == (order[3], "65")
    hand.keyboard.press("Escape")
    assert not dialog.is_visible()
    hand.locator("tbody button:focus", has_text=order[3]).wait_for()  # comes a little later
    assert hand.get_by_label("Map over image").is_visible()  # back at its place

    hand.get_by_label("Verdict").select_option("correct")
    hand.get_by_label("grid").check()
    hand.locator("tbody tr:visible button").first.press("Enter")
    assert name.inner_text() == "good/b.png"
    hand.get_by_role("button", name="Next").click()
    assert name.inner_text() == "hole/e.png"
    hand.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_the_large_view_circles_the_highest_places(hand: Any) -> None:
    """The first in row 8 of 32 and column 12 of 48: a quarter of each side."""
    hand.locator("tbody img").first.click()
    picture = hand.locator("#detail .stack").bounding_box()
    marks = map(box_of, hand.locator("#marks span").all())
    for mark, (row, column) in zip(marks, PLACES, strict=True):
        across = (mark["x"] + mark["width"] / 2 - picture["x"]) / picture["width"]
        down = (mark["y"] + mark["height"] / 2 - picture["y"]) / picture["height"]
        assert (across, down) == pytest.approx(((column + 0.5) / 48, (row + 0.5) / 32), abs=0.01)
    assert picture["width"] / picture["height"] == pytest.approx(1.5, abs=0.02)
    assert hand.locator("#detail-nearest img").count() == 2 * len(PLACES)


def test_a_grid_shows_each_image_with_name_verdict_and_score(hand: Any) -> None:
    hand.get_by_label("grid").check()
    cards = hand.locator("tbody tr:visible")
    assert cards.count() == 6
    places = {(round(box["x"]), round(box["y"])) for box in map(box_of, cards.all())}
    assert len({y for _, y in places}) < 6  # side by side
    for text in ("hole/d.png", "miss", "0.300"):
        assert cards.first.get_by_text(text).is_visible()
    assert cards.first.locator("canvas:visible").count() == 1
    hand.get_by_role("button", name="score").click()
    assert cards.first.locator(".score").inner_text() == "0.900"
    hand.get_by_label("table").check()
    assert cards.first.locator("canvas:visible").count() == 2


def box_of(element: Any) -> dict[str, float]:
    return element.bounding_box()


@pytest.mark.parametrize("large", [False, True])
def test_every_control_and_picture_has_a_name(hand: Any, large: bool) -> None:
    if large:
        hand.locator("tbody button").first.click()
    nodes = hand.context.new_cdp_session(hand).send("Accessibility.getFullAXTree")["nodes"]
    seen = [n for n in nodes if not n["ignored"] and n["role"]["value"] in CONTROLS]
    roles = {node["role"]["value"] for node in seen}
    assert roles >= ({"dialog", "slider", "image"} if large else CONTROLS - {"dialog"})
    assert [n for n in seen if not n.get("name", {}).get("value", "").strip()] == []


CONTRASTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3)
    .map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + [0.2126, 0.7152, 0.0722][i] * v, 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    return dark ? [18, 18, 18] : [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility() || element.closest("script, select")) continue;
    const style = getComputedStyle(element);
    const ink = channels(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.textContent.trim()]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(hand: Any, scheme: str) -> None:
    """WCAG 2.2 asks for a contrast of 4.5 between text and what is behind it."""
    hand.emulate_media(color_scheme=scheme)
    for large in (False, True):
        if large:
            hand.locator("tbody button").first.click()
        contrasts = hand.evaluate(CONTRASTS)
        texts = [text for _, text in contrasts]
        assert {"miss", "Scores", "image score", "Next" if large else "score"} <= set(texts)
        assert [pair for pair in contrasts if pair[0] < 4.5] == []


ONE, GOOD = {"good/a.png": 0.1}, {name: HAND[name] for name in HAND if name.startswith("good")}


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize(
    ("scores", "masked", "told"),
    [
        (ONE, True, "False alarms: 0 of 1 good; no defective images"),
        (GOOD, False, "False alarms: 1 of 3 good; no defective images"),
        ({"hole/d.png": 0.3}, True, "No good images; misses: 1 of 1 defective"),
        (HAND, False, "False alarms: 1 of 3 good; misses: 1 of 3 defective"),
    ],
    ids=["one", "only good", "only defective", "no masks"],
)
def test_what_is_missing_leaves_no_hole(
    scores: dict[str, float], masked: bool, told: str, width: int, chromium: Any, tmp_path: Path
) -> None:
    path = page_of(tmp_path / "page.html", scores, masked=masked)
    with opened(chromium, path, viewport={"width": width, "height": 900}) as (tab, said):
        assert tab.locator("#counts").inner_text() == told
        assert tab.locator("th", has_text="truth").count() == masked
        assert tab.locator("#no-figures").count() == (len(scores) < 6)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.locator("tbody canvas:visible").count() == len(scores) * (1 + (width > 700))
        tab.locator("tbody button").first.click()
        assert tab.locator("#detail figure:visible").count() == 3 + 2 * len(PLACES) + masked
        overflow = "document.getElementById('detail').scrollWidth <= innerWidth"
        assert tab.evaluate(overflow)
        assert not said


@pytest.mark.parametrize("ratio", [1 / 8, 8])
def test_pictures_of_any_shape_fit_on_the_screen(
    ratio: float, chromium: Any, tmp_path: Path
) -> None:
    long = example("hole/a.png", 0.9)._replace(ratio=ratio)
    html = model_page("part", {}, {}, [long], [], Thresholds(0.5, 0.5), Scores([], [0.9]))
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    with opened(chromium, path, viewport={"width": 1200, "height": 800}) as (tab, said):
        for press in (None, "grid", "hole/a.png"):
            if press:
                tab.get_by_role("radio" if press == "grid" else "button", name=press).click()
            pictures = tab.locator("img:visible, canvas:visible").all()
            boxes = [box_of(picture) for picture in pictures]
            assert [box for box in boxes if box["height"] > 700 or box["width"] > 1200] == []
            assert [box["width"] / box["height"] for box in boxes] == pytest.approx(
                [ratio] * len(boxes), rel=0.1
            )
            stack = box_of(tab.locator(".stack:visible").last)
            assert (stack["width"], stack["height"]) in {(b["width"], b["height"]) for b in boxes}
        assert not said


def test_no_image_could_be_judged(chromium: Any, tmp_path: Path) -> None:
    with opened(chromium, page_of(tmp_path / "page.html", {})) as (tab, said):
        assert tab.locator("#counts").inner_text() == "No good images; no defective images"
        assert tab.locator("#failures").inner_text() == "good/broken.png: cannot be read"
        assert not said


def test_the_plot_of_scores_names_what_there_is() -> None:
    svg = plots.score_histogram([0.1], [], 0.5)
    assert "defective" not in svg
    counts = re.findall(r">([\d.]+)</text>", svg.partition("image score")[2])
    assert counts == ["0", "1"]  # of images, which come in whole numbers
