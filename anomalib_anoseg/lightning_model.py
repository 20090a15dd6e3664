"""AnoSeg as an anomalib model: wires generator, networks and losses into Lightning.

Song, Kong, Park, Kim, Kang: "AnoSeg: Anomaly Segmentation Network Using Self-Supervised Learning",
arXiv 2110.03396, 2021.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.metrics import Evaluator as AnomalibEvaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import MEBinPostProcessor
from anomalib.post_processing import PostProcessor as AnomalibPostProcessor
from anomalib.pre_processing import PreProcessor as AnomalibPreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from anomalib_anoseg import loss
from anomalib_anoseg.anomaly_generator import AnomalyGenerator
from anomalib_anoseg.evaluation.evaluator import Evaluator
from anomalib_anoseg.evaluation.inspected import judge_inside
from anomalib_anoseg.evaluation.visualizer import ImageVisualizer
from anomalib_anoseg.export.export_mixin import ExportMixin
from anomalib_anoseg.networks.detector import Detector
from anomalib_anoseg.networks.discriminator import Discriminator
from anomalib_anoseg.networks.pretrained import weights_follow
from anomalib_anoseg.networks.region import Polygons, plain_region
from anomalib_anoseg.post_processor import PostProcessor
from anomalib_anoseg.pre_processor import PreProcessor
from anomalib_anoseg.synthesis.laws import Anomalies, Variation, laws_from
from anomalib_anoseg.synthesis.variation import RandomVariation, variation_from
from anomalib_anoseg.torch_model import AnoSegModel, Segmentation, check_images
from anomalib_anoseg.training.crops import CropBatch, TrainOnCrops
from anomalib_anoseg.training.data_check import DataCheck
from anomalib_anoseg.training.good_images import preparation_of
from anomalib_anoseg.training.last_checkpoint import LastCheckpoint
from anomalib_anoseg.training.learning_rate import resume_with, warmup_cosine
from anomalib_anoseg.training.loss_guard import LossGuard, check_weights
from anomalib_anoseg.training.random_draws import RandomDraws
from anomalib_anoseg.training.remembering import (
    TrainingImages,
    numbers_of,
    remember,
    warn_of_changes,
)
from anomalib_anoseg.training.restoration import (
    is_resumed,
    kind_of,
    name_what_export_forgets,
    name_what_is_tested,
    plain,
    restore_component,
    restored_arguments,
)
from anomalib_anoseg.utils.checks import (
    require_not_negative,
    require_one_of,
    require_positive,
    require_whole,
    require_within,
)
from anomalib_anoseg.utils.inside import inside_of
from anomalib_anoseg.utils.seeds import own_seed
from anomalib_anoseg.utils.shapes import SMALLEST_SIDE, Images, Insides, Masks

OURS = "AnoSeg's own PreProcessor, or none"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
CHECK_EVERY = 50  # steps; a GPU does not wait for the losses in between
COMPONENTS: dict[str, tuple[type, ...]] = {
    "pre_processor": (PreProcessor, AnomalibPreProcessor),
    "post_processor": (PostProcessor, AnomalibPostProcessor, MEBinPostProcessor),
}
SEGMENTATION_LOSSES = {"l1": loss.l1_loss, "l1_bce_dice": loss.l1_bce_dice_loss}


class AnoSeg(ExportMixin, AnomalibModule):  # type: ignore[misc]  # Lightning has another to_onnx
    """Segmentation network trained on synthetic anomalies made from good images.

    Args:
        pre_trained: Remember the good images as a frozen encoder with ImageNet weights sees them,
            and decide together with that memory. False trains from scratch alone, as the paper.
        memory_backbone: Name of the timm encoder that remembers, with feature maps at strides 4, 8,
            16 and 32. The default's weights are installed by pip; those of most others come from
            timm's hub.
        memory_rows: Most features that are remembered of each of the three feature maps.
        backbone: Name of a timm encoder whose coarsest feature map has stride 32, trained from
            scratch: it draws sharper than one with ImageNet weights. The default is our own thin
            one; "resnet18" is the paper's, for use without a memory.
        decoder: "skip" is light and has skip connections, ours; "paper" is table 6 of AnoSeg.
        coordinate_channels: Give the encoder each pixel's row and column.
        anomalies: Laws of the synthetic anomalies; ``Anomalies.paper()`` for the paper's. From a
            command line also a file of them, ``--model.anomalies configs/anomalies/paper.yaml``.
        variation: Laws of the small changes of good images in training, or a list of augmentations
            of kornia to apply instead, of which none is kept in a checkpoint: inference needs none.
            ``[]``, or ``Variation.paper()``, varies nothing.
        segmentation_loss: "l1" is the paper's; "l1_bce_dice" adds cross entropy and Dice, ours.
        reconstruction_weight: Weight of the paper's masked reconstruction loss.
        adversarial_weight: Weight of the paper's adversarial loss; 0 builds no discriminator. With
            both this and reconstruction_weight at 0 no image decoder is built either.
        image_score: Where an image's score comes from. "map" is the map alone, ours; "detector" is
            the paper's second GAN, trained in the same run and exported with the model.
        train_crop: Train on random square crops of this side, in pixels, up to four of each image,
            with their place in it, and judge whole images: for defects that are small in large
            images. Give the pre-processor the size at which they can be seen, or "native".
        region: The part of all images that is inspected: a mask image of their size, 0 outside, or
            polygons, lists of points (x, y) as shares of width and height, where one within another
            is a hole. Nothing outside is seen by any network, and its map is 0. Exported with the
            model.
        learning_rate: Highest rate of AdamW; warmed up, then lowered along a cosine.
        torch_compile: Compile what a training step calls, which takes minutes at its start; the
            synthetic anomalies on a GPU only.
        max_epochs: Epochs to train, instead of ``--trainer.max_epochs``. Made for anomalib's
            benchmark, which passes nothing to the trainer and would train 1000 epochs.
        seed: Makes a run repeatable: initial weights, synthetic anomalies and order of the data.
            anomalib's own ``--seed_everything`` is parsed but never used.
        pre_processor: Resizes images in [0, 1] to 256 x 256 by default.
        post_processor: Finds thresholds without a defective image by default; anomalib's own
            PostProcessor() takes them from the validation images.
        evaluator: By default image AUROC and F1, pixel AUROC, AUPR, AUPRO, F1, IoU and IoUMax.
        visualizer: anomalib's by default.

    Raises:
        ValueError: If an argument is outside its range.
    """

    model: AnoSegModel

    def __init__(
        self,
        pre_trained: bool = True,
        memory_backbone: str = "tf_efficientnet_lite0",
        memory_rows: int = 1000,
        backbone: str = "thin_resnet",
        decoder: Literal["paper", "skip"] = "skip",
        coordinate_channels: bool = True,
        anomalies: Anomalies = Anomalies(),  # noqa: B008  # frozen
        variation: Variation | list[nn.Module] = Variation(),  # noqa: B008
        segmentation_loss: Literal["l1", "l1_bce_dice"] = "l1_bce_dice",
        reconstruction_weight: float = 0.0,
        adversarial_weight: float = 0.0,
        image_score: Literal["map", "detector"] = "map",
        train_crop: int | None = None,
        region: Polygons | str | None = None,
        learning_rate: float = 1e-3,
        torch_compile: bool = False,
        max_epochs: int | None = None,
        seed: int | None = None,
        pre_processor: AnomalibPreProcessor | bool = True,
        post_processor: AnomalibPostProcessor | bool = True,
        evaluator: AnomalibEvaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        laws, vary = laws_from(Anomalies, anomalies), variation_from(variation)
        # Rebound before super() saves them: only plain data can be loaded with weights_only.
        anomalies, variation = _plain(laws), _plain(vary.laws)
        region = plain_region(region)
        require_positive("anomalies.synthetic_share", laws.synthetic_share)
        require_positive("learning_rate", learning_rate)
        require_not_negative("reconstruction_weight", reconstruction_weight)
        require_not_negative("adversarial_weight", adversarial_weight)
        if seed is not None:
            require_within("seed", seed, 0, 2**32 - 1)
            require_whole("seed", seed)
        if max_epochs is not None:
            require_within("max_epochs", max_epochs, -1, math.inf)
            require_whole("max_epochs", max_epochs)
        if train_crop is not None:
            require_within("train_crop", train_crop, SMALLEST_SIDE, math.inf)
            require_whole("train_crop", train_crop)
        require_within("memory_rows", memory_rows, 1, math.inf)
        require_whole("memory_rows", memory_rows)
        require_one_of("segmentation_loss", segmentation_loss, SEGMENTATION_LOSSES)
        require_one_of("image_score", image_score, ("map", "detector"))
        if image_score == "detector" and laws.synthetic_share == 1:
            msg = "image_score 'detector' needs good images: synthetic_share must be below 1, got 1"
            raise ValueError(msg)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.variation = vary
        self._loss_guard = LossGuard()
        self._limit_val_batches: int | float | None = None
        self.trained_on = ""
        self.resumed_from: Any = None
        self.remembered: dict[int, str] = {}
        with own_seed(seed) if seed is not None else nullcontext():
            self._build()

    def _build(self) -> None:
        """Make everything that follows from the arguments: given ones, or those of a checkpoint."""
        arguments: dict[str, Any] = dict(self.hparams)
        self.torch_compile: bool = arguments["torch_compile"]
        self.max_epochs: int | None = arguments["max_epochs"]
        self.seed: int | None = arguments["seed"]
        self.train_crop: int | None = arguments["train_crop"]
        if self.train_crop is not None and arguments["image_score"] == "detector":
            msg = "image_score 'detector' judges whole images: train it without train_crop"
            raise ValueError(msg)
        self.learning_rate: float = arguments["learning_rate"]
        self.reconstruction_weight: float = arguments["reconstruction_weight"]
        self.adversarial_weight: float = arguments["adversarial_weight"]
        self.segmentation_loss = SEGMENTATION_LOSSES[arguments["segmentation_loss"]]
        # A user's own augmentations are not in a checkpoint.
        if arguments["variation"] or isinstance(self.variation, RandomVariation):
            self.variation = variation_from(arguments["variation"])
        self.anomaly_generator = AnomalyGenerator(laws_from(Anomalies, arguments["anomalies"]))
        networks = self.architecture(arguments)
        discriminate = networks.pop("discriminate")
        self.model = AnoSegModel(**networks)
        # Takes a quarter off a step on a CPU, and is what the tensor cores of a GPU work in.
        self.model.to(memory_format=torch.channels_last)
        self.discriminator = Discriminator() if discriminate else None

    @staticmethod
    def architecture(arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return which networks follow from the arguments."""
        adversary = arguments["adversarial_weight"] > 0
        return {
            "backbone": arguments["backbone"],
            "decoder": arguments["decoder"],
            "coordinate_channels": bool(arguments["coordinate_channels"]),
            "reconstruct": arguments["reconstruction_weight"] > 0 or adversary,
            "detect": arguments["image_score"] == "detector",
            "memory_backbone": arguments["memory_backbone"] if arguments["pre_trained"] else None,
            "memory_rows": arguments["memory_rows"],
            "region": arguments["region"],
            "discriminate": adversary,
        }

    def setup(self, stage: str) -> None:
        """Keep checkpoints whole, and train without validation images if there are none.

        Raises:
            ValueError: If validation is asked for and the data module has no images for it, or a
                precision that it does not know.
        """
        super().setup(stage)
        if self.trainer.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            msg = f"--trainer.precision {self.trainer.precision}: AnoSeg works in {known}"
            raise ValueError(msg)
        # anomalib.engine, which this needs, loads the models and with them this module.
        from anomalib_anoseg.training.checkpoint_io import use_whole_checkpoints

        use_whole_checkpoints(self.trainer.strategy)
        data = getattr(self.trainer, "datamodule", None)
        # anomalib's data modules then still hand out a loader, of data they do not have.
        if isinstance(data, AnomalibDataModule) and not hasattr(data, "val_data"):
            if stage == "validate":
                msg = f"{data.name} has no validation images: val_split_mode is none"
                raise ValueError(msg)
            if stage == "fit":
                self._limit_val_batches = self.trainer.limit_val_batches
                self.trainer.limit_val_batches = 0

    def teardown(self, stage: str) -> None:
        """Let the trainer validate again: its next data module may have images for it."""
        super().teardown(stage)
        if self._limit_val_batches is not None:
            self.trainer.limit_val_batches = self._limit_val_batches
            self._limit_val_batches = None

    def on_fit_start(self) -> None:
        """Keep the data's name, forget losses of a run before, and compile, if asked for.

        Raises:
            ValueError: If a pre-processor that is not ours would resize crops, or something cuts
                the images that a region lies over.
        """
        self._loss_guard = LossGuard()
        data = getattr(self.trainer, "datamodule", None)
        self._refuse_what_moves_pixels(data)
        if self.train_crop is not None and self.model.sees_far:
            rank_zero_warn(
                "an encoder looks at all of an image, as squeeze-and-excitation and attention do: "
                "what it learns on crops holds for whole images only about. Take one of plain "
                "convolutions"
            )
        parts = (getattr(data, "name", None), getattr(data, "category", None))
        self.trained_on = "/".join(part for part in parts if part)
        # Lightning wonders about modules in evaluation mode; the memory's encoder stays in it.
        warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start")
        if not self.torch_compile:
            return
        for network in (self.model, self.discriminator):
            if network is not None:
                network.compile()
        if self.device.type != "cpu":
            for module in (self.variation, self.anomaly_generator):
                module.compile(dynamic=False)  # inductor has no random integers of open shapes

    def _refuse_what_moves_pixels(self, data: Any) -> None:
        theirs = self.pre_processor
        if getattr(theirs, "transform", None) is not None and not isinstance(theirs, PreProcessor):
            name, reason = type(theirs).__name__, ""
            if self.train_crop is not None:
                reason = (
                    f"train_crop needs {OURS}: {name} would resize crops as if they were images"
                )
            elif self.model.region is not None:
                reason = f"region needs {OURS}: {name} may cut the images that it lies over"
            if reason:
                raise ValueError(reason)
        if self.model.region is not None and getattr(data, "external_collate_fn", None) is not None:
            msg = (
                "region lies over whole images, and this data module has a collate function of its "
                "own, as anomalib's tiled ensemble: train one model, on crops of large images"
            )
            raise ValueError(msg)

    def on_train_start(self) -> None:
        """Remember the good images, in one process for all; a resumed run has a memory."""
        memory, trainer = self.model.memory, self.trainer
        if memory is None:
            return
        images = TrainingImages(trainer.train_dataloader, preparation_of(self.pre_processor))
        # Lightning's finders of a learning rate or a batch size go back to a checkpoint, too, of a
        # memory that is still empty.
        if trainer.ckpt_path is not None and self.remembered:
            if trainer.is_global_zero:
                warn_of_changes(self.remembered, images, self.seed)
            if isinstance(self.post_processor, PostProcessor):
                self.post_processor.leave_out(self.remembered)
            return
        filled: Any = None
        if trainer.is_global_zero:
            remember(memory, images, self.model.region)
            # From the CPU, or each process would take room on the first one's GPU.
            state = {name: value.cpu() for name, value in memory.state_dict().items()}
            filled = images.paths, state
        self.remembered, state = trainer.strategy.broadcast(filled)
        memory.load_state_dict(state)

    def on_fit_end(self) -> None:
        """Leave no compiled graph behind, which could not be exported."""
        for module in self.modules():
            module._compiled_call_impl = None  # noqa: SLF001

    def training_step(
        self, batch: ImageBatch, batch_idx: int, *args: Any, **kwargs: Any
    ) -> STEP_OUTPUT:
        """Vary the images, make synthetic anomalies, return the sum of all losses.

        Networks that are trained against each other see the other's values or weights as constants,
        so that one backward pass gives each its own gradients: what many devices, clipping and
        accumulated gradients work with. They are updated at the same time, not in turn.
        """
        del args, kwargs
        assert batch.image is not None  # anomalib's batches always carry images
        if batch_idx == 0:  # once per epoch: looking at values makes a GPU wait
            check_images(batch.image)
        # Not torchvision's kind of tensor, on which the compiler fails.
        images = self.variation(batch.image.as_subclass(Tensor))
        place = batch.place if isinstance(batch, CropBatch) else None
        inside = inside_of(self.model.region, images, place)
        nothing = torch.zeros_like(images[:, :1])
        images, masks = self.anomaly_generator(images, nothing, inside=inside)
        images = self.model.inspected(images, place)  # for all losses
        owners = None
        if self.model.memory is not None:
            owners = numbers_of(batch).to(self.device, non_blocking=True)
        output: Segmentation = self.model(images, owners, place)
        losses = self._segmentation_losses(images, masks, output, inside)
        critics = {}
        if self.discriminator is not None:
            critics["discriminator"] = self._critic_loss(self.discriminator, images, masks, output)
            losses["adversarial"] = self._adversarial_loss(self.discriminator, output)
        total = torch.stack([*losses.values()]).sum()
        if self.model.detector is not None:
            critics |= self._detector_losses(self.model.detector, images, masks, output)

        self._loss_guard.watch(self.global_step, losses | critics)
        if self.device.type == "cpu" or self.global_step % CHECK_EVERY == 0:
            self._loss_guard.check(self._anywhere)
        logged = {f"train_{name}": value for name, value in (losses | critics).items()}
        # Lightning asks for the value of whatever the progress bar may show, at each step.
        self.log_dict({"train_loss": total} | logged, prog_bar=self.device.type == "cpu")
        return torch.stack([total, *critics.values()]).sum()

    def _segmentation_losses(
        self, images: Images, masks: Masks, output: Segmentation, inside: Insides | None
    ) -> dict[str, Tensor]:
        losses = {"segmentation": self.segmentation_loss(output.anomaly_logits, masks, inside)}
        if output.reconstruction is not None and self.reconstruction_weight > 0:
            reconstruction = loss.reconstruction_loss(output.reconstruction, images, masks)
            losses["reconstruction"] = self.reconstruction_weight * reconstruction
        if output.memory_logits is not None:
            losses["memory"] = self.segmentation_loss(output.memory_logits, masks, inside)
        return losses

    @staticmethod
    def _critic_loss(
        discriminator: Discriminator, images: Images, masks: Masks, output: Segmentation
    ) -> Tensor:
        assert output.reconstruction is not None  # the model builds it for the discriminator
        return loss.discriminator_loss(
            real=discriminator(images, masks),
            fake=discriminator(output.reconstruction.detach(), output.anomaly_map.detach()),
        )

    def _adversarial_loss(self, discriminator: Discriminator, output: Segmentation) -> Tensor:
        assert output.reconstruction is not None
        with _frozen(discriminator):
            verdicts = discriminator(output.reconstruction, output.anomaly_map)
        return self.adversarial_weight * loss.generator_loss(verdicts)

    @staticmethod
    def _detector_losses(
        detector: Detector, images: Images, masks: Masks, output: Segmentation
    ) -> dict[str, Tensor]:
        anomaly_map = output.anomaly_map.detach()  # the detector takes the map as it is
        reconstruction = detector.reconstruct(images, anomaly_map)
        critic = detector.discriminator_loss(images, masks, reconstruction.detach(), anomaly_map)
        with _frozen(detector.discriminator):
            generator = detector.generator_loss(images, masks, reconstruction, anomaly_map)
        return {"detector_discriminator": critic, "detector": generator}

    def _anywhere(self, statement: bool) -> bool:
        """Tell whether something is true in any process; after an error nobody is waited for."""
        trainer = self._trainer
        if trainer is None or trainer.interrupted:
            return statement
        return trainer.strategy.reduce_boolean_decision(statement, all=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the thresholds; refuse to overwrite a good checkpoint with weights not finite.

        Raises:
            FloatingPointError: If a loss or a weight is not finite.
        """
        self._loss_guard.check(self._anywhere)
        check_weights(self.parameters(), self._anywhere)
        super().on_save_checkpoint(checkpoint)
        if isinstance(self.post_processor, PostProcessor):
            self.post_processor.complete(checkpoint, self)
        checkpoint["anoseg_trained_on"] = self.trained_on
        checkpoint["anoseg_remembered"] = self.remembered
        for name in COMPONENTS:
            checkpoint[f"anoseg_{name}"] = kind_of(getattr(self, name))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # all that follows is passed on
        cls, checkpoint_path: Path | str, *args: Any, **kwargs: Any
    ) -> "AnoSeg":
        """Load as anomalib does, and name the file that is not what it should be.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is truncated, or of another model.
        """
        try:
            with weights_follow():
                model: Any = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except FileNotFoundError as error:
            msg = f"{checkpoint_path}: no such file"
            raise FileNotFoundError(msg) from error
        # What torch and Lightning raise for a wrong file is of a dozen types.
        except Exception as error:
            reason = str(error).partition("\n")[0]
            msg = f"{checkpoint_path}: not a checkpoint of AnoSeg that can be read: {reason}"
            raise ValueError(msg) from error
        name_what_export_forgets(model)
        return model

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Become the model that was saved, whatever arguments this one was made with.

        Raises:
            ValueError: If a run is resumed with arguments of other networks.
        """
        if is_resumed(self):
            self._refuse_another_region(checkpoint["state_dict"])
        if saved := checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY):
            arguments = restored_arguments(self, saved)
            if plain(arguments) != plain(self.hparams):
                self._rebuild(arguments)
            if is_resumed(self):
                resume_with(checkpoint, saved, arguments)
        name_what_is_tested(self)
        changed = [restore_component(self, n, checkpoint, kinds) for n, kinds in COMPONENTS.items()]
        # anomalib's checkpoints do not hold these, only whether they were there.
        others = self.evaluator, self.visualizer
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None:
            self.evaluator, self.visualizer = others
        self.trained_on = checkpoint.get("anoseg_trained_on", "")
        self.remembered = checkpoint.get("anoseg_remembered", {})
        if any(changed):
            self._set_up_data_again()

    def _refuse_another_region(self, saved: Mapping[str, Tensor]) -> None:
        """Compare the masks themselves: the file of the same name may have changed."""
        region, mask = self.model.region, saved.get("model.region.inside")
        if region is None or mask is None or torch.equal(region.inside.cpu(), mask.cpu()):
            return
        msg = (
            f"cannot resume {self.trainer.ckpt_path} with another region than its own: leave "
            "--model.region out, or train anew without the checkpoint"
        )
        raise ValueError(msg)

    def _rebuild(self, arguments: dict[str, Any]) -> None:
        device = next(self.model.parameters()).device
        self.save_hyperparameters(arguments)
        with own_seed(0), weights_follow():
            self._build()
        self.model.to(device).train(self.training)
        if self.discriminator is not None:
            self.discriminator.to(device).train(self.training)

    def _set_up_data_again(self) -> None:
        """Do what Lightning did with another pre- or post-processor before it read the file."""
        trainer: Any = self._trainer
        if trainer is None or trainer.state.fn is None:
            return
        found = self.pre_processor, self.post_processor
        components = [component for component in found if isinstance(component, Callback)]
        for component in components:
            component.teardown(trainer, self, trainer.state.fn.value)
        if trainer.datamodule is not None:
            trainer.datamodule.setup(trainer.state.fn)  # images are resized as they are loaded
        for component in components:
            component.setup(trainer, self, trainer.state.fn.value)

    def validation_step(self, batch: Any, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Add anomaly maps and scores to the batch; what lies outside the region is no defect."""
        del args, kwargs
        if self.model.region is not None:
            judge_inside(batch, self.model.region(batch.image))
        output: STEP_OUTPUT = batch.update(**self.model(batch.image)._asdict())
        return output

    def test_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Do the same."""
        return self.validation_step(batch, batch_idx, *args, **kwargs)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with a warmed-up cosine, for all networks; ours."""
        # Lightning clips no gradients of a fused optimizer under mixed precision.
        trainer = self.trainer
        mixed = isinstance(trainer.precision_plugin, MixedPrecision)
        optimizer = AdamW(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            self.learning_rate,
            fused=not (mixed and trainer.gradient_clip_val),
        )
        schedule = LambdaLR(optimizer, warmup_cosine(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_callbacks(self) -> list[Callback]:
        """Return anomalib's own and those of a training run."""
        if self.seed is not None:
            # Lightning's last hook before the data are set up, which anomalib may split at random.
            seed_everything(self.seed, workers=True, verbose=False)
        self._refuse_tiler()
        callbacks: Any = super().configure_callbacks()
        # The check before anybody reads an image; the last checkpoint of a run that fails before
        # the post-processor gives up the images that its thresholds are set by.
        return [DataCheck(), TrainOnCrops(), RandomDraws(), LastCheckpoint(), *callbacks]

    def _refuse_tiler(self) -> None:
        """Name what to use instead of anomalib's tiler, which would cut crops without a place."""
        from anomalib.callbacks import TilerConfigurationCallback  # loads the models itself

        for callback in getattr(self._trainer, "callbacks", ()):
            if isinstance(callback, TilerConfigurationCallback) and callback.enable:
                msg = (
                    "AnoSeg takes no TilerConfigurationCallback: it trains on crops and judges "
                    "whole images. Leave the callback out and give --model.train_crop 256 "
                    "--model.pre_processor.init_args.image_size native, as configs/fine.yaml does"
                )
                raise ValueError(msg)

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Return what AnoSeg needs of Lightning's trainer."""
        arguments = {"num_sanity_val_steps": 0}
        # Only if asked for: anomalib lets these override what the user gives to the trainer.
        return arguments if self.max_epochs is None else arguments | {"max_epochs": self.max_epochs}

    @property
    def learning_type(self) -> LearningType:
        """Return that only good images are needed."""
        return LearningType.ONE_CLASS

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Return the resize to image_size, by default to (256, 256)."""
        return PreProcessor(image_size or (256, 256))

    def configure_post_processor(self) -> PostProcessor:
        """Return thresholds from held-out good images and synthetic anomalies."""
        return PostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Return the paper's metrics and those of its successors."""
        return Evaluator()

    @classmethod
    def configure_visualizer(cls) -> ImageVisualizer:
        """Return anomalib's, which shows images as they were read."""
        return ImageVisualizer()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Leave out gradients that nobody uses: a third of what a generator's update costs."""
    network.requires_grad_(False)
    yield
    network.requires_grad_(True)


def _plain(laws: Anomalies | Variation | None) -> Any:
    return [] if laws is None else asdict(laws)
