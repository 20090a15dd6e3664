"""Thresholds that need no defective image, and a normalisation that loses nothing."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.post_processing import PostProcessor as AnomalibPostProcessor
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from anomalib_anoseg.calibration import calibrate
from anomalib_anoseg.networks.decision import ANOMALOUS_SCORE
from anomalib_anoseg.training.good_images import preparation_of
from anomalib_anoseg.training.hold_out import HeldOut
from anomalib_anoseg.utils.checks import (
    require_not_negative,
    require_rate,
    require_whole,
    require_within,
)
from anomalib_anoseg.utils.cuts import expected_above, for_rate_or_usual, halfway, separate
from anomalib_anoseg.utils.false_alarms import FalseAlarms, images_needed
from anomalib_anoseg.utils.shapes import Images

WITHIN = (1e-6, 1 - 1e-6)
LEVELS = ("image", "pixel")
OF_GOOD_IMAGES = ("good_scores", "good_peaks")


class PostProcessor(AnomalibPostProcessor):
    """anomalib's post-processor with thresholds from good images and synthetic anomalies.

    While AnoSeg trains, a tenth of the good images is held out (:class:`HeldOut`). With each
    validation and at the end the network sees them as they are and with synthetic anomalies, and
    the thresholds are set by what it answers. No test image and no real defect is looked at.
    anomalib's own post-processor looks at both: it takes the best F1 on the validation images,
    which by default are the test images. Where a memory takes part, its decision is standardised
    by the same good images, the pixel threshold is a fixed amount of evidence, and the image
    threshold is one too, unless good or synthetic images ask for another (:func:`halfway`).

    With a ``false_alarm_rate`` the image threshold comes from the good images alone: it is the
    lowest of their scores that promises the rate for the next good image (split conformal, see
    :mod:`.utils.false_alarms`). A rate of 0.01 needs 99 good images, so up to a fifth are held out.
    Where there are too few, the threshold is the higher of the highest good score and of the one
    without a rate; what this promises, 1 / (n + 1), is said in a warning. Scores of the
    images trained on would not do, not even with each left out of the memory: the decoders
    have learned to draw nothing on them.

    With a ``mask_false_alarm_rate`` the same is promised of masks, by the highest pixel of each of
    these images: at most this share of good images has a mask with any pixel. It only raises the
    pixel threshold, since a lower one would find more of a defect's surroundings, not more defects.

    Maps and scores are probabilities. They are normalised by a line from 0 to the threshold and
    another one from the threshold to 1, which puts the threshold at 0.5. No order is lost, so that
    metrics over all thresholds do not change.

    Trained without a data module, as with bare data loaders, the thresholds stay at 0.5.

    Args:
        enable_normalization: Normalise scores and maps. Without it masks and labels are cut at 0.5
            of the raw probability, wherever the thresholds are, and no rate can be promised.
        enable_thresholding: Return labels and masks.
        enable_threshold_matching: As in anomalib; here both thresholds always exist.
        image_sensitivity: Above 0.5 more images are called defective, [0, 1].
        pixel_sensitivity: Above 0.5 more pixels are called defective, [0, 1].
        false_alarm_rate: Share of good images that may be called defective, (0, 1); takes the place
            of image_sensitivity. None for the image threshold described above.
        mask_false_alarm_rate: Share of good images that may have a pixel in their mask, (0, 1);
            takes the place of pixel_sensitivity. None for the pixel threshold described above.
        smallest_defect: Pixels of the image as it was taken; ``anomalib-anoseg infer`` leaves out
            smaller regions, see its option of the same name. It is kept in checkpoints and exports
            for infer alone: the exported graph, anomalib's test and predict and the page have maps
            of the network's size, where these pixels are not known, and leave nothing out.

    Attributes:
        good_scores: Raw scores of the good images that set the thresholds, in order, (n,); each as
            if this image had not been among those that standardise the decision.
        good_peaks: Likewise the highest raw value of each one's map, in order, (n,).
        usual_threshold: The image threshold without a rate.
        usual_pixel_threshold: Likewise.

    Raises:
        ValueError: If an argument is outside its range, or a rate is given and the sensitivity
            that moves the same threshold, or no normalisation.
    """

    good_scores: Tensor
    good_peaks: Tensor
    usual_threshold: Tensor
    usual_pixel_threshold: Tensor

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float = 0.5,
        pixel_sensitivity: float = 0.5,
        false_alarm_rate: float | None = None,
        smallest_defect: int = 0,
        mask_false_alarm_rate: float | None = None,
    ) -> None:
        for name, rate, level, sensitivity in (
            ("false_alarm_rate", false_alarm_rate, "image", image_sensitivity),
            ("mask_false_alarm_rate", mask_false_alarm_rate, "pixel", pixel_sensitivity),
        ):
            require_within(f"{level}_sensitivity", sensitivity, 0, 1)
            if rate is not None:  # 0.5 is the sensitivity of those who gave none
                require_rate(name, rate, level, None if sensitivity == 0.5 else sensitivity)
        require_whole("smallest_defect", smallest_defect)
        require_not_negative("smallest_defect", smallest_defect)
        super().__init__(
            enable_normalization=enable_normalization,
            enable_thresholding=enable_thresholding,
            enable_threshold_matching=enable_threshold_matching,
            image_sensitivity=image_sensitivity,
            pixel_sensitivity=pixel_sensitivity,
        )
        for buffer in (self.image_min, self.pixel_min):
            buffer.fill_(0.0)
        for buffer in (self.image_max, self.pixel_max):
            buffer.fill_(1.0)
        for buffer in (self._image_threshold, self._pixel_threshold):
            buffer.fill_(0.5)
        self.false_alarm_rate = false_alarm_rate
        self.mask_false_alarm_rate = mask_false_alarm_rate
        self.smallest_defect = smallest_defect
        self._refuse_rates_in_vain()
        for name in OF_GOOD_IMAGES:
            self.register_buffer(name, torch.empty(0))
        for name in ("usual_threshold", "usual_pixel_threshold"):
            self.register_buffer(name, torch.tensor(0.5))
        self._held_out: HeldOut | None = None
        self._step = -1

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        ours = ("false_alarm_rate", "mask_false_alarm_rate", "smallest_defect")
        return (*super()._checkpoint_config_keys, *ours)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take as many scores as there are."""
        for name in OF_GOOD_IMAGES:
            if (saved := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def normalized_good_scores(self) -> Tensor:
        """Scores of the good images, (n,), in the units in which an image gets its own."""
        limits = self.image_min, self.image_max, self.image_threshold
        return self._in_units_of_answers(self.good_scores, *limits)

    def _in_units_of_answers(self, values: Tensor, *limits: Tensor) -> Tensor:
        if not self.enable_normalization:
            return values
        normalized = self._normalize(values, *limits)
        assert normalized is not None
        return normalized

    @property
    def false_alarms(self) -> FalseAlarms | None:
        """How many good images will be called defective; None if no good image was looked at.

        With a rate what the threshold promises, without one what was seen on the same images.
        """
        _, raised = self._image_cut()
        cut = self.normalized_image_threshold
        return expected_above(self.normalized_good_scores, cut, self.false_alarm_rate, raised)

    @property
    def mask_false_alarms(self) -> FalseAlarms | None:
        """How many good images will have a mask with any pixel; likewise."""
        limits = self.pixel_min, self.pixel_max, self.pixel_threshold
        peaks = self._in_units_of_answers(self.good_peaks, *limits)
        _, raised = self._pixel_cut()
        cut = self.normalized_pixel_threshold
        return expected_above(peaks, cut, self.mask_false_alarm_rate, raised)

    def export_metadata(self) -> dict[str, str]:
        """Return what an exported file says beside its thresholds, see its ``to_openvino``."""
        metadata = {"smallest_defect": str(self.smallest_defect)}
        if len(self.good_scores):
            scores = self.normalized_good_scores.tolist()
            metadata["good_scores"] = " ".join(f"{score:.8g}" for score in scores)
        for name, found in (
            ("false_alarm", self.false_alarms),
            ("mask_false_alarm", self.mask_false_alarms),
        ):
            if found is not None:
                metadata[f"{name}_rate"] = f"{found.expected:.8g}"
                metadata[f"{name}_interval"] = f"{found.low:.8g} {found.high:.8g}"
                if (asked := getattr(self, f"{name}_rate")) is not None:
                    metadata[f"{name}_rate_asked"] = f"{asked:.8g}"
        return metadata

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images that a run which ended in an error still holds."""
        return self.__dict__ | {"_held_out": None}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the held-out images from the training images before the first epoch."""
        datamodule = getattr(trainer, "datamodule", None)
        self._release()  # a run before this one may have ended in an error
        if stage == "fit" and isinstance(datamodule, AnomalibDataModule):
            prepare = preparation_of(pl_module.pre_processor)
            wanted = max((images_needed(rate) for rate in self._rates.values()), default=0)
            self._held_out = HeldOut(datamodule, prepare, wanted)
            if copies := self._held_out.copies:
                rank_zero_warn(
                    f"{len(copies)} training images are copies of ones that are held out to set "
                    f"thresholds, and are not trained on: {copies[0]}"
                    + (", ..." if len(copies) > 1 else "")
                )
            self._step = -1
        elif stage == "fit":
            in_vain = f"{self._asked} without effect, and " if self._rates else ""
            rank_zero_warn(
                f"{in_vain}no thresholds are set: good images are held out of a data module of "
                "anomalib only, and this run has none"
            )

    def leave_out(self, remembered: Collection[int]) -> None:
        """Set no threshold by images that a memory knows, or say that there are no others.

        Args:
            remembered: Numbers of their contents.
        """
        known, others = (0, 0) if self._held_out is None else self._held_out.leave_out(remembered)
        if known:
            left = f"{others} others do" if others else "they do, too low, as there are no others"
            rank_zero_warn(
                f"{known} of the good images that would set thresholds were trained on before, in "
                f"a run whose images were drawn otherwise: {left}"
            )

    @property
    def _rates(self) -> dict[str, float]:
        """Those that are asked for, by name."""
        names = ("false_alarm_rate", "mask_false_alarm_rate")
        return {name: rate for name in names if (rate := getattr(self, name)) is not None}

    @property
    def _asked(self) -> str:
        return ", ".join(f"{name}={rate}" for name, rate in self._rates.items())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the held-out images back: the data module may serve another model next."""
        del trainer, pl_module
        if stage == "fit":
            self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Likewise; the last weights were saved before, with thresholds that these images set."""
        del trainer, pl_module, exception
        self._release()

    def _release(self) -> None:
        if self._held_out is not None:
            self._held_out.release()
            self._held_out = None

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Look at nothing: these may be test images."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the thresholds, for metrics that need them."""
        self._calibrate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the thresholds of the last weights, if they came after the last validation."""
        self._calibrate(trainer, pl_module)
        if self._held_out is not None:
            self.report()

    def complete(self, checkpoint: dict[str, Any], pl_module: LightningModule) -> None:
        """Set the thresholds of the weights that are being saved, wherever in an epoch that is.

        Not at the end of each epoch: with few images that took a tenth of the training. Called by
        AnoSeg, because Lightning leaves callbacks out of checkpoints of weights alone.
        """
        if self._held_out is None:
            return
        decision: Any = getattr(pl_module.model, "decision", None)
        buffers = [] if decision is None else [*decision.buffers()]
        before = [value.clone() for value in buffers]
        try:
            self._calibrate(pl_module.trainer, pl_module)
        except (OSError, ValueError) as error:  # of an image; the weights of hours are saved
            for value, earlier in zip(buffers, before, strict=True):
                value.copy_(earlier)
            rank_zero_warn(
                f"thresholds could not be set again ({error}): a checkpoint is saved with those of "
                "before"
            )
            return
        for name, value in pl_module.state_dict().items():
            if name.startswith(("post_processor.", "model.decision.")):
                checkpoint["state_dict"][name] = value

    def _calibrate(self, trainer: Trainer, module: LightningModule) -> None:
        if self._held_out is None or self._step == trainer.global_step:
            return
        training = module.training
        module.eval()
        try:
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                self.fit(module, self._held_out.images)
        finally:
            module.train(training)
        self._step = trainer.global_step

    def fit(self, module: Any, images: Sequence[Images]) -> None:
        """Set both thresholds by normal images and synthetic anomalies made from them.

        Args:
            module: AnoSeg in evaluation mode.
            images: Good images in [0, 1] as the network sees them, (1, c, h, w) each.
        """
        found = calibrate(module, images)
        if found.pixel_cut is None:
            # The score of a map is evidence; that of the paper's second network is not.
            most = ANOMALOUS_SCORE if module.model.detector is None else 1.0
            usual, usual_pixel = halfway(found.good, found.bad, most), torch.tensor(0.5)
        else:
            # From scratch alone scores of synthetic anomalies reach so high that halfway to them
            # misses what the real ones give: 18 of 48 on the demo, where this misses 6.
            usual, usual_pixel = separate(found.good, found.bad), found.pixel_cut
        # Strictly between 0 and 1, also for a map that tells nothing: both sides need a length.
        self.usual_threshold.copy_(usual.clamp(*WITHIN))
        self.usual_pixel_threshold.copy_(usual_pixel.clamp(*WITHIN))
        self.good_scores = found.unseen.sort().values.to(self.usual_threshold)
        self.good_peaks = found.peaks.sort().values.to(self.usual_threshold)
        self.set_thresholds()

    def _refuse_rates_in_vain(self) -> None:
        if self._rates and not self.enable_normalization:
            msg = (
                f"{self._asked} needs enable_normalization: without it the cut is 0.5, not a "
                "threshold"
            )
            raise ValueError(msg)

    def set_thresholds(self, *levels: str) -> None:
        """Set them by the rates that are asked for, and what the maps of good images gave.

        Args:
            levels: "image" or "pixel"; both by default. The other one stays as it is.

        Raises:
            ValueError: If there are rates, and no normalisation.
        """
        self._refuse_rates_in_vain()
        if "image" in (levels or LEVELS):
            self._image_threshold.copy_(self._image_cut()[0].clamp(*WITHIN))
        if "pixel" in (levels or LEVELS):
            self._pixel_threshold.copy_(self._pixel_cut()[0].clamp(*WITHIN))

    def _image_cut(self) -> tuple[Tensor, bool]:
        """Return the raw image threshold, and whether it is the usual one in spite of a rate."""
        rate, usual = self.false_alarm_rate, self.usual_threshold
        if rate is None or not len(self.good_scores):
            return usual, False
        return for_rate_or_usual(self.good_scores, rate, usual, only_in_need=True)

    def _pixel_cut(self) -> tuple[Tensor, bool]:
        """Return the same of pixels, of which a rate only raises the threshold."""
        rate, usual = self.mask_false_alarm_rate, self.usual_pixel_threshold
        if rate is None or not len(self.good_peaks):
            return usual, False
        return for_rate_or_usual(self.good_peaks, rate, usual, only_in_need=False)

    def report(self) -> None:
        """Say which thresholds were set and what is to be expected of them; warn if in vain."""
        found, rate = self.false_alarms, self.false_alarm_rate
        if found is not None:
            asked = "without a rate of false alarms; above it are"
            if rate is not None:
                asked = f"for {rate:.2%} of false alarms; expect"
            _say("image threshold", self.image_threshold, found, asked)
            _warn_if_too_few("image threshold", self.image_threshold, found, rate)
        found, rate = self.mask_false_alarms, self.mask_false_alarm_rate
        if found is not None and rate is not None:
            asked = f"for masks with any pixel on {rate:.2%} of good images; expect"
            _say("pixel threshold", self.pixel_threshold, found, asked)
            _warn_if_too_few("pixel threshold", self.pixel_threshold, found, rate)

    @staticmethod
    def _normalize(
        preds: Tensor | None, norm_min: Tensor, norm_max: Tensor, threshold: Tensor
    ) -> Tensor | None:
        """Map [min, threshold] to [0, 0.5] and [threshold, max] to [0.5, 1], piecewise linear."""
        if preds is None:
            return None
        below = 0.5 * (preds - norm_min) / (threshold - norm_min)
        above = 0.5 + 0.5 * (preds - threshold) / (norm_max - threshold)
        return torch.where(preds > threshold, above, below).clamp(0, 1)


def _say(name: str, threshold: Tensor, found: FalseAlarms, asked: str) -> None:
    rank_zero_info(
        f"AnoSeg's {name} is {float(threshold):.4g}, set by {found.images} good images that "
        f"training has not seen, {asked} {found}"
    )


def _warn_if_too_few(name: str, threshold: Tensor, found: FalseAlarms, rate: float | None) -> None:
    if rate is None or found.images >= (needed := images_needed(rate)):
        return
    rank_zero_warn(
        f"a false-alarm rate of {rate:.2%} needs {needed} good images that training has not seen, "
        f"and there are {found.images}: what can be promised is {1 / (found.images + 1):.2%}. The "
        f"{name}, {float(threshold):.4g}, is the higher of the highest of theirs and of the "
        "threshold without a rate"
    )
