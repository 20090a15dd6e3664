"""What the laws refuse, what plain data they become, and the paper's values against its words."""

import pickle
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.models import get_model
from conftest import photographs, quiet_engine, small_model
from kornia.augmentation import RandomBoxBlur, RandomGaussianNoise
from omegaconf import OmegaConf
from torch import nn

from anomalib_anoseg import AnomalyGenerator, AnoSeg
from anomalib_anoseg.synthesis.laws import Anomalies, Variation

PAPER = Path(__file__).parents[1] / "configs/paper.yaml"


@pytest.mark.parametrize(
    ("law", "value"),
    [
        ("synthetic_share", 1.5),
        ("synthetic_share", -0.1),
        ("hard_augmentation", 1.5),
        ("patches", (0, 1)),
        ("patches", (3, 2)),
        ("patches", (1, 2.5)),
        ("patch_area", (0.2, 0.1)),
        ("patch_area", (0.0, 0.1)),
        ("patch_area", (0.1, 1.1)),
        ("patch_aspect", (0.0, 1.0)),
        ("patch_rotation", (-400.0, 0.0)),
        ("patch_scale", (0.0, 1.0)),
        ("blob_share", 1.1),
        ("colour_share", -1.0),
        ("other_source_share", -0.5),
        ("structure_share", 1.5),
        ("opacity", (0.0, 1.0)),
        ("border_width", (-1.0, 1.0)),
        ("min_difference", 1.0),
        ("min_difference", float("nan")),
    ],
)
def test_a_wrong_law_is_named_with_its_range(law: str, value: object) -> None:
    laws: Any = {law: value}
    for build in (lambda: Anomalies(**laws), lambda: AnoSeg(anomalies=laws)):
        with pytest.raises(ValueError, match=law) as caught:
            build()
        assert str(value) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("law", "value"),
    [
        ("turn", 181), ("turn", -1), ("shift", -0.1), ("zoom", 1), ("lighting", float("nan")),
        ("white_balance", 1.1), ("white_balance", "much"),
    ],
)  # fmt: skip
def test_a_wrong_law_of_variation(law: str, value: Any) -> None:
    laws: Any = {law: value}
    for build in (lambda: Variation(**laws), lambda: AnoSeg(variation=laws)):
        with pytest.raises(ValueError, match=f"{law} must satisfy 0 <= .*got {value}"):
            build()


@pytest.mark.parametrize("value", ["paper", None, 1, {"patchess": (1, 1)}])
def test_what_is_no_law_is_refused_by_name(value: Any) -> None:
    for name in ("anomalies", "variation"):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            AnoSeg(**{name: value})
    with pytest.raises(ValueError, match=r"^variation must be"):
        AnoSeg(variation=[1])


def test_the_paper() -> None:
    """Oracle: section 3.1, figures 2 and 3 of AnoSeg, and CutPaste for what it leaves open."""
    laws = Anomalies.paper()
    assert laws.synthetic_share == 0.5  # figure 2: one for each good image
    assert laws.hard_augmentation == 0.5  # figure 3, each of the three
    assert laws.patches == (1, 1)
    assert laws.blob_share == laws.colour_share == 0  # a rectangle, filled with pixels
    assert laws.other_source_share == laws.structure_share == 0  # of the same image, anywhere
    assert laws.opacity == laws.patch_scale == (1, 1)
    assert laws.border_width == (0, 0)
    assert laws.min_difference == 0  # the mask is the patch
    assert laws.patch_area == (0.02, 0.15)  # CutPaste
    assert laws.patch_aspect == (0.3, 3.3)
    assert laws.patch_rotation[0] <= 18 <= laws.patch_rotation[1]  # figure 3
    images, nothing = photographs(8), torch.zeros(8, 1, 96, 96)
    synthetic, masks = AnomalyGenerator(laws)(images, nothing)
    assert masks.flatten(1).any(1).sum() == 4
    assert not torch.equal(synthetic, images)


def test_the_configuration_of_the_paper_has_its_laws() -> None:
    """Also with one of them changed; decoder and networks are left small."""
    small = {"model.init_args.decoder": "skip", "model.init_args.image_score": "map"}
    small |= {"model.init_args.backbone": "mobilenetv3_small_050"}
    model = AnoSeg.from_config(PAPER, **small)
    assert model.anomaly_generator.anomalies == Anomalies.paper()
    images = photographs(2)
    assert torch.equal(model.variation(images), images)
    changed = AnoSeg.from_config(PAPER, **small, **{"model.anomalies.patches": "[1,2]"})
    expected = asdict(Anomalies.paper()) | {"patches": (1, 2)}
    assert asdict(changed.anomaly_generator.anomalies) == expected


def test_the_paper_varies_nothing() -> None:
    images = photographs(2)
    assert not any(asdict(Variation.paper()).values())
    assert torch.equal(small_model(variation=Variation.paper()).variation(images), images)


@pytest.mark.parametrize("kind", [Anomalies, Variation])
def test_plain_data_give_the_same_laws(kind: Any) -> None:
    laws = kind()
    assert kind(**asdict(laws)) == laws
    assert hash(laws) == hash(pickle.loads(pickle.dumps(laws)))  # noqa: S301
    with pytest.raises(AttributeError):
        setattr(laws, fields(laws)[0].name, 0)


@pytest.mark.parametrize(
    "anomalies",
    [
        Anomalies(patches=(1, 2), patch_area=(0.05, 0.1)),
        {"patches": [1, 2], "patch_area": [0.05, 0.1]},
        OmegaConf.create({"patches": [1, 2], "patch_area": [0.05, 0.1]}),
    ],
    ids=["object", "dict", "OmegaConf"],
)
def test_every_form_becomes_plain_hyper_parameters(anomalies: Any) -> None:
    model = small_model(anomalies=anomalies, variation={"turn": 3})
    laws = model.anomaly_generator.anomalies
    assert laws == Anomalies(patches=(1, 2), patch_area=(0.05, 0.1))
    assert type(model.hparams["anomalies"]) is dict
    assert model.hparams["anomalies"] == asdict(laws)
    assert model.hparams["variation"] == asdict(Variation(turn=3))


def test_anomalibs_own_way_to_build_a_model() -> None:
    """What its benchmark calls."""
    arguments = {"backbone": "mobilenetv3_small_050", "anomalies": {"patches": [2, 2]}}
    model: Any = get_model(
        OmegaConf.create({"class_path": "anomalib_anoseg.AnoSeg", "init_args": arguments})
    )
    assert model.anomaly_generator.anomalies == Anomalies(patches=(2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["laws", "a user's augmentations"])
def test_a_checkpoint_loads_with_weights_only(tmp_path: Path, own: bool) -> None:
    augmentations = [RandomBoxBlur(p=1.0), nn.Conv2d(3, 3, 1)]  # of which one has weights
    model = small_model(
        anomalies=Anomalies(patches=(1, 2)), variation=augmentations if own else Variation(turn=9)
    )
    path = tmp_path / "model.ckpt"
    trainer = quiet_engine(tmp_path)
    trainer._setup_trainer(model)
    trainer.trainer.strategy.connect(model)
    trainer.trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    loaded = AnoSeg.load_from_checkpoint(path)
    assert loaded.anomaly_generator.anomalies == Anomalies(patches=(1, 2))
    assert loaded.variation.laws == (None if own else Variation(turn=9))
    images = photographs(2)
    assert not own or torch.equal(loaded.variation(images), images)
    again = AnoSeg.load_from_checkpoint(path, variation=augmentations)
    assert not torch.equal(again.variation(images), images)


def test_a_users_augmentations_of_kornia() -> None:
    """In order, cut to [0, 1], moved along with the model."""
    noise = RandomGaussianNoise(std=0.5, p=1.0)
    model = small_model(variation=[RandomBoxBlur(p=1.0), noise])
    changed = model.variation(photographs(4))
    assert 0 == changed.min() < changed.max() == 1
    model.to(torch.float64)
    assert noise.dtype == torch.float64
    assert not [name for name in model.state_dict() if "variation" in name]
