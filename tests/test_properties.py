"""Random input, most of it bad: a documented error or a correct answer, and never half of one.

A few examples of each; ``EXAMPLES=1000`` tries more, as ``make soak`` does.
"""

import csv
import os
import re
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino as ov
import pytest
import torch
from anomalib.data import ImageBatch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openvino import opset13 as op
from torch import Tensor

from anomalib_anoseg import AnomalyGenerator, AnoSeg
from anomalib_anoseg.evaluation.metrics import AUPR, AUPRO, AUROC, F1Score, IoU, IoUMax
from anomalib_anoseg.inference.command import infer
from anomalib_anoseg.inference.table import Row
from anomalib_anoseg.synthesis.laws import Anomalies
from anomalib_anoseg.synthesis.variation import RandomVariation
from anomalib_anoseg.torch_model import AnoSegModel

EXAMPLES = int(os.environ.get("EXAMPLES", "25"))
tried = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

NUMBERS = st.one_of(
    st.floats(-2, 2), st.integers(-3, 20), st.sampled_from([float("nan"), float("inf"), 0, 1e-12])
)
VALUES = st.one_of(
    NUMBERS, st.booleans(), st.text(max_size=5), st.none(), st.lists(NUMBERS, max_size=5)
)
LAWS = sorted(signature(Anomalies).parameters)


@tried
@given(st.dictionaries(st.sampled_from(LAWS), VALUES, min_size=1, max_size=3))
def test_laws_of_the_generator(arguments: dict[str, Any]) -> None:
    try:
        generator = AnomalyGenerator(Anomalies(**arguments))
    except ValueError as error:
        assert any(name in str(error) for name in arguments)  # noqa: PT017
        return
    images = torch.rand(3, 3, 40, 50)
    made, masks = generator(images, torch.zeros(3, 1, 40, 50))
    check_synthetic(images, made, masks)


def check_synthetic(images: Tensor, made: Tensor, masks: Tensor) -> None:
    assert made.shape == images.shape
    assert made.dtype == images.dtype
    assert made.isfinite().all()
    assert 0 <= made.min() <= made.max() <= 1
    assert set(masks.unique().tolist()) <= {0, 1}
    assert torch.equal((made != images).any(1, keepdim=True), masks > 0)


@st.composite
def tensors(draw: Callable[..., Any]) -> Tensor:
    """Draw tensors of which a few are batches of images in [0, 1]."""
    shape = draw(
        st.one_of(
            st.lists(st.integers(0, 40), max_size=5),
            st.tuples(
                st.integers(1, 3), st.sampled_from([0, 1, 2, 3, 4]),
                st.integers(1, 70), st.integers(1, 70),
            ),
        )
    )  # fmt: skip
    kinds = [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool]
    kind = draw(st.sampled_from([torch.float32, torch.float32, *kinds]))
    low, high = draw(st.sampled_from([(0, 1), (0, 1), (-1, 1), (0, 255), (float("nan"), 1)]))
    random = torch.rand(
        tuple(shape), generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
    )
    return (low + (high - low) * random).to(kind)


@tried
@given(tensors())
def test_images_for_variation_and_generator(images: Tensor) -> None:
    generator = AnomalyGenerator()
    for module in (RandomVariation(), generator):
        try:
            made = module(images)
        except ValueError as error:
            assert "images must" in str(error)  # noqa: PT017
            continue
        masks = [generator._params["changed"]] if module is generator else []
        assert (made.shape, made.dtype) == (images.shape, images.dtype)
        if not (0 <= images.min() <= images.max() <= 1):
            continue  # neither makes a GPU wait for a look at the values; the network's check does
        assert 0 <= made.min() <= made.max() <= 1
        if masks:
            check_synthetic(images, made, *masks)


@pytest.fixture(scope="module")
def network() -> AnoSegModel:
    return AnoSegModel("mobilenetv3_small_050", reconstruct=False).eval()


@tried
@given(images=tensors())
def test_images_for_the_network(network: AnoSegModel, images: Tensor) -> None:
    try:
        answer = network(images)
    except ValueError as error:
        assert "images must" in str(error)  # noqa: PT017
        return
    assert answer.anomaly_map.shape == (len(images), 1, *images.shape[-2:])
    for values in (answer.anomaly_map, answer.pred_score):
        assert 0 <= values.min() <= values.max() <= 1


METRICS = [AUROC, AUPR, AUPRO, F1Score, IoU, IoUMax]


@tried
@given(st.sampled_from(METRICS), tensors(), tensors(), st.booleans())
def test_maps_for_metrics(kind: Any, maps: Tensor, masks: Tensor, fit: bool) -> None:
    metric = kind(fields=["anomaly_map", "gt_mask"], prefix="pixel_")
    if fit and maps.ndim == 3:
        masks = torch.rand(maps.shape) > 0.5
    try:
        batch = ImageBatch(torch.rand(len(maps), 3, 8, 8), anomaly_map=maps, gt_mask=masks)
        metric.update(batch)
        value = metric.compute()
    except (TypeError, ValueError) as error:  # anomalib's own checks of a batch among them
        assert str(error)  # noqa: PT017
        return
    assert value is None or 0 <= value <= 1


# anomalib looks at its components; weights cannot be downloaded in a test.
OTHERS = {"pre_processor", "post_processor", "evaluator", "visualizer", "pre_trained"}


@tried
@given(
    st.dictionaries(
        st.sampled_from([name for name in signature(AnoSeg).parameters if name not in OTHERS]),
        VALUES, min_size=1, max_size=2,
    )
)  # fmt: skip
def test_arguments_of_the_model(arguments: dict[str, Any]) -> None:
    small = {"backbone": "mobilenetv3_small_050", "visualizer": False}
    try:
        AnoSeg(**small | arguments)
    except ValueError as error:
        assert any(name in str(error) for name in arguments)  # noqa: PT017


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose map is the image's red channel."""
    path = tmp_path_factory.mktemp("model") / "model.xml"
    image = op.parameter([-1, 3, 16, 16], np.float32, "input")
    red = op.slice(image, [0], [1], [1], [1])
    score = op.reduce_max(red, [1, 2, 3])
    label = op.greater(score, np.float32(0.5))
    outputs = {"anomaly_map": red, "pred_score": score, "pred_label": label}
    for name, node in outputs.items():
        node.output(0).set_names({name})
    ov.save_model(ov.Model([*outputs.values()], [image]), path)
    return path


def encoded(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


@st.composite
def files(draw: Callable[..., Any]) -> bytes:
    """Draw images, damaged images and bytes that are none."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=200))
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4])))
    deep = draw(st.booleans()) and draw(st.booleans())
    random = np.random.default_rng(draw(st.integers(0, 9)))
    kind = np.uint16 if deep else np.uint8
    whole = encoded(".png", random.integers(0, np.iinfo(kind).max, shape).astype(kind))
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 3))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.sampled_from([len(content), len(content), 50]))])


NAMES = st.text("abcé ü'\"$&=.-", min_size=1, max_size=8).map(lambda name: name.strip(" .") or "a")


@tried
@given(
    content=st.dictionaries(
        st.tuples(NAMES, st.sampled_from([".png", ".jpg", ".BMP", ".txt"])).map("".join),
        files(), max_size=4,
    )
)  # fmt: skip
def test_files_for_inference(
    tmp_path_factory: pytest.TempPathFactory, exported: Path, content: dict[str, bytes]
) -> None:
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    for name, data in content.items():
        (folder / name).write_bytes(data)
    images = sorted(name for name in content if not name.endswith(".txt"))
    if not images:
        with pytest.raises(FileNotFoundError, match=re.escape(str(folder))):
            infer(exported, str(folder), out)
        return
    status = infer(exported, str(folder), out)
    with (out / "results.csv").open(newline="") as lines:
        header, *rows = csv.reader(lines)
    assert tuple(header) == Row._fields
    assert [row[0] for row in rows] == images
    assert status == any(row[-1] for row in rows)
    for name, score, label, area, _, _, error in rows:
        assert bool(score) != bool(error)  # none of these can be judged and not drawn
        mask = out / "masks" / (name if name.endswith(".png") else f"{name}.png")
        assert mask.is_file() == bool(score)
        if score:
            assert label == ("defective" if float(score) > 0.5 else "good")
            assert int(area) == (cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) > 0).sum()
    assert not [*out.rglob("*.part")]
