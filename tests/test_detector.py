from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import photographs, quiet_engine, segmenter, small_model
from lightning.pytorch.callbacks import Callback
from torch.nn.functional import mse_loss

from anomalib_anoseg import AnoSeg, SurfaceDemo
from anomalib_anoseg.networks.detector import Detector
from anomalib_anoseg.torch_model import AnoSegModel

BACKBONE = "mobilenetv3_small_050"


@pytest.fixture
def detector() -> Detector:
    return Detector(BACKBONE)


def masks_of(batch: int, *anomalous: int) -> torch.Tensor:
    masks = torch.zeros(batch, 1, 96, 96)
    masks[list(anomalous), :, 10:30, 20:40] = 1
    return masks


def test_score_is_the_papers_distance(detector: Detector) -> None:
    """Oracle: 1.0 * MSE(f(x, A_nor), f(x_hat, A_hat)) + 0.1 * MSE(x, x_hat), image by image."""
    detector.eval()
    detector.typical.fill_(0.3)
    images, maps = photographs(3), torch.rand(3, 1, 96, 96)
    scores = detector(images, maps)
    for image, map_, score in zip(images.split(1), maps.split(1), scores, strict=True):
        rebuilt = detector.reconstruct(image, map_)
        f = detector.discriminator.features
        seen = f(image, torch.zeros_like(map_)), f(rebuilt, map_)
        distance = 1.0 * mse_loss(*seen) + 0.1 * mse_loss(image, rebuilt)
        torch.testing.assert_close(score, distance / (distance + 0.3), rtol=1e-4, atol=1e-6)


def test_features_are_what_the_last_layer_sees(detector: Detector) -> None:
    critic = detector.discriminator.eval()
    images, masks = photographs(2, height=256, width=256), torch.zeros(2, 1, 256, 256)
    features = critic.features(images, masks)
    assert features.shape == (2, 128, 2, 2)  # the last convolution turns 2 x 2 into 1 x 1
    torch.testing.assert_close(critic.head(features).flatten(), critic(images, masks))


def test_losses_are_taken_over_the_right_images(detector: Detector) -> None:
    """Oracle: the paper's terms, written out over the good and the synthetic images apart."""
    detector.eval()  # batch normalisation would couple the images
    images, masks = photographs(4), masks_of(4, 1, 3)
    rebuilt, maps = photographs(4), torch.rand(4, 1, 96, 96)
    d = lambda i, m: detector.discriminator(i, m).sigmoid()  # noqa: E731
    good, bad = [0, 2], [1, 3]
    real, fake = d(images[good], masks[good]), d(rebuilt[good], maps[good])
    synthetic = d(images[bad], masks[bad])
    l_adv = -(real.log().mean() + (1 - fake).log().mean())
    l_cls = -((1 - synthetic).log().mean() + real.log().mean())
    told = detector.discriminator_loss(images, masks, rebuilt, maps)
    torch.testing.assert_close(told, l_adv + l_cls)

    f = detector.discriminator.features
    seen = f(images[good], masks[good]), f(rebuilt[good], maps[good])
    expected = (
        0.01 * -fake.log().mean()
        + 1.0 * mse_loss(*seen)
        + 1.0 * (images[good] - rebuilt[good]).abs().mean()
    )
    made = detector.generator_loss(images, masks, rebuilt, maps)
    torch.testing.assert_close(made, expected)


def test_a_batch_without_good_images_teaches_no_reconstruction(detector: Detector) -> None:
    masks = masks_of(2, 0, 1)
    typical = detector.typical.clone()
    loss = detector.generator_loss(photographs(2), masks, photographs(2), masks)
    assert loss == 0
    assert detector.typical == typical


def test_typical_follows_the_distance_of_good_images(detector: Detector) -> None:
    detector.eval()
    images, maps = photographs(2), torch.rand(2, 1, 96, 96)
    rebuilt = detector.reconstruct(images, maps)
    for _ in range(200):
        detector.generator_loss(images, masks_of(2), rebuilt, maps)
    # Half of the distances lie above the mean, half below: the scores lie around 0.5.
    score = detector(images, maps)
    torch.testing.assert_close((score / (1 - score)).mean(), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_map_is_an_input_of_the_generator(detector: Detector) -> None:
    images = photographs(2)  # in training mode: random weights alone let a signal die away
    a, b = (detector.reconstruct(images, torch.full((2, 1, 96, 96), v)) for v in (0.0, 1.0))
    assert (a - b).abs().max() > 1e-4
    assert a.shape == images.shape


def test_model_takes_its_score_from_the_detector() -> None:
    model = AnoSegModel(BACKBONE, reconstruct=False, detect=True).eval()
    images = photographs(2, height=70, width=100)  # no multiples of 32
    answer = model(images)
    torch.testing.assert_close(answer.pred_score, model.detector(images, answer.anomaly_map))
    assert answer.pred_score.shape == (2,)
    assert not answer.pred_score.requires_grad


class Gradients(Callback):
    """Notes which parameters have moved after each step."""

    def on_train_start(self, trainer: Any, module: AnoSeg) -> None:
        del trainer
        self.before = {name: p.clone() for name, p in module.named_parameters()}

    def on_train_end(self, trainer: Any, module: AnoSeg) -> None:
        now = dict(module.named_parameters())
        self.unmoved = [name for name, p in self.before.items() if torch.equal(p, now[name])]
        self.logged = set(trainer.callback_metrics)
        self.steps = trainer.global_step


@pytest.mark.slow
@pytest.mark.parametrize("adversarial_weight", [0.0, 0.01])
def test_trained_in_the_same_run(
    tmp_path: Path, demo_root: Path, adversarial_weight: float
) -> None:
    watch = Gradients()
    model = small_model(
        image_score="detector",
        adversarial_weight=adversarial_weight,
        reconstruction_weight=adversarial_weight,
    )
    engine = quiet_engine(tmp_path, max_steps=3, callbacks=[watch])
    data = SurfaceDemo(demo_root, category="part", train_batch_size=4)
    engine.fit(model, datamodule=data)
    assert watch.unmoved == []
    assert watch.steps == 3
    assert {"train_detector", "train_detector_discriminator"} <= watch.logged
    (results,) = engine.test(model, datamodule=data)
    assert 0 <= results["image_AUROC"] <= 1

    loaded = AnoSeg.load_from_checkpoint(engine.trainer.checkpoint_callback.best_model_path)
    image = photographs(1)
    expected, again = model.cpu().eval()(image), loaded.eval()(image)
    torch.testing.assert_close(again.pred_score, expected.pred_score)


@pytest.mark.slow
def test_a_step_in_bfloat16(tmp_path: Path, demo_root: Path) -> None:
    """One step and nothing else: without bfloat16 in hardware a transposed convolution crawls."""
    watch, model = Gradients(), segmenter(image_score="detector")
    engine = quiet_engine(
        tmp_path, max_steps=1, precision="bf16-mixed", limit_val_batches=0, callbacks=[watch]
    )
    engine.fit(model, datamodule=SurfaceDemo(demo_root, category="part", train_batch_size=2))
    assert watch.unmoved == []
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
def test_segmentation_does_not_feel_the_detector(tmp_path: Path, demo_root: Path) -> None:
    """Oracle: the map is detached, so one step moves the segmentation as without a detector."""
    weights = []
    for image_score in ("map", "detector"):
        model = segmenter(image_score=image_score, post_processor=False, seed=3)
        # The same start, although building a detector draws random numbers too.
        torch.manual_seed(5)
        for name, parameter in sorted(model.named_parameters()):
            if "detector" not in name:
                torch.nn.init.normal_(parameter, std=0.1)
        engine = quiet_engine(tmp_path / image_score, max_steps=1, limit_val_batches=0)
        data = SurfaceDemo(demo_root, category="part", train_batch_size=4)
        engine.fit(model, datamodule=data)
        weights.append({n: p for n, p in model.named_parameters() if "detector" not in n})
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
