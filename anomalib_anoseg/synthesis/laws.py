"""What synthetic anomalies and varied good images may look like: plain values, checked once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import yaml

from anomalib_anoseg.utils.checks import require_range, require_whole, require_within
from anomalib_anoseg.utils.configs import config_path

Range = tuple[float, float]


@dataclass(frozen=True)
class Anomalies:
    """Laws of the synthetic anomalies.

    The defaults are ours, a wider family than the paper's single rectangle.

    Args:
        synthetic_share: Share of a batch that becomes synthetic, [0, 1]. More than the paper's
            half, because good pixels are plenty in synthetic images too. Rounded, but with at least
            one image of each kind if the batch has two.
        hard_augmentation: Probability of each of rotation, permutation and colour jitter of what is
            pasted, [0, 1].
        patches: Fewest and most patches of a synthetic image, 1 to 16.
        patch_area: Area of a patch as a share of the image, log-uniform, (0, 1]. Small ones are for
            defects of a few pixels; without a memory they cost large defects: the bottles' AUPRO
            0.06.
        patch_aspect: Width over height of a patch, log-uniform.
        patch_rotation: Angle in degrees by which a patch is turned, [-180, 180].
        patch_scale: Factor by which a patch is enlarged, as in NSA (Schlueter et al. 2022).
        blob_share: Share of the patches that are unions of ellipses, not rectangles, [0, 1].
        colour_share: Share of the patches that are painted in one random colour instead of filled
            from an image, [0, 1]; from CutPaste's ablation with coloured scars.
        other_source_share: Share of the synthetic images whose patches come from any image of the
            batch, [0, 1]. All in NSA.
        structure_share: Share of the patches that are pasted where the image has contrast, [0, 1].
            NSA looks for the object by a brightness that has to be given for each product.
        opacity: Share of a patch in what is seen, (0, 1]. Most are near the highest.
        border_width: Width over which a patch fades in along its shorter side, in pixels of a
            256 x 256 image; along the other one it is wider by its aspect.
        min_difference: A pixel counts as anomalous, and is pasted at all, if the 5 x 5 mean of its
            change exceeds this value, [0, 1): about a camera's noise, because metal on metal is no
            defect. The test is NSA's, the smoothing ours.

    Raises:
        ValueError: If a law is outside its range.
    """

    synthetic_share: float = 0.8
    hard_augmentation: float = 0.5
    patches: tuple[int, int] = (1, 3)
    patch_area: Range = (0.001, 0.2)
    patch_aspect: Range = (0.3, 3.3)
    patch_rotation: Range = (-45.0, 45.0)
    patch_scale: Range = (0.7, 1.4)
    blob_share: float = 0.3
    colour_share: float = 0.3
    other_source_share: float = 0.5
    structure_share: float = 0.7
    opacity: Range = (0.3, 1.0)
    border_width: Range = (0.0, 12.0)
    min_difference: float = 0.02

    def __post_init__(self) -> None:
        _without_lists(self)
        for name in (
            "synthetic_share",
            "hard_augmentation",
            "blob_share",
            "colour_share",
            "other_source_share",
            "structure_share",
        ):
            require_within(name, getattr(self, name), 0, 1)
        require_range("patches", self.patches, 1, 16)
        require_whole("patches", self.patches)
        require_range("patch_area", self.patch_area, 1e-4, 1.0)
        require_range("patch_aspect", self.patch_aspect, 0.01, 100.0)
        require_range("patch_rotation", self.patch_rotation, -180.0, 180.0)
        require_range("patch_scale", self.patch_scale, 0.1, 10.0)
        require_range("opacity", self.opacity, 0.01, 1.0)
        require_range("border_width", self.border_width, 0.0, 256.0)
        require_within("min_difference", self.min_difference, 0, math.nextafter(1, 0))

    @classmethod
    def paper(cls) -> "Anomalies":
        """Return the paper's: one opaque rectangle of the same image, labelled as a whole."""
        return cls(**yaml.safe_load(config_path("anomalies/paper").read_text()))


@dataclass(frozen=True)
class Variation:
    """Laws of the small changes that leave a good image good; ours.

    Without them the good images are learned by heart. AnoSeg says nothing about it; NSA (Schlueter
    et al. 2022) crops at random and turns by 5 degrees.

    Args:
        turn: Largest angle in degrees, either way, [0, 180]; 180 for parts that lie in any
            direction.
        shift: Largest shift as a share of the height and of the width, [0, 1].
        zoom: Largest change of the size as a share of it, [0, 1).
        lighting: Largest change of brightness and of contrast as a share of them, [0, 1].
        white_balance: Largest change of each colour channel as a share of it, [0, 1]. Grey images
            stay grey. On the demo's part 0.03 gives no false alarm when red changes against blue by
            5 %, at the accuracy of 0; by 10 % it gives 10 and 17 of 20, and 0.05 none.

    Raises:
        ValueError: If a law is outside its range.
    """

    turn: float = 2.0
    shift: float = 0.01
    zoom: float = 0.02
    lighting: float = 0.1
    white_balance: float = 0.03

    def __post_init__(self) -> None:
        require_within("turn", self.turn, 0, 180)
        require_within("zoom", self.zoom, 0, math.nextafter(1, 0))
        for name in ("shift", "lighting", "white_balance"):
            require_within(name, getattr(self, name), 0, 1)

    @classmethod
    def paper(cls) -> "Variation":
        """Return the paper's: nothing is varied."""
        return cls(turn=0, shift=0, zoom=0, lighting=0, white_balance=0)


Laws = TypeVar("Laws", Anomalies, Variation)


def laws_from(kind: type[Laws], given: Any) -> Laws:
    """Return laws given as such or as plain data: a checkpoint's, a benchmark's, a user's.

    Raises:
        ValueError: If there is no such law, or it is outside its range.
    """
    if isinstance(given, kind):
        return given
    name = kind.__name__.lower()
    known = [field.name for field in fields(kind)]
    if not isinstance(given, Mapping) or not set(given) <= set(known):
        msg = f"{name} must be {kind.__name__}(...) or a dict of {', '.join(known)}, got {given!r}"
        raise ValueError(msg)
    return kind(**given)


def _without_lists(laws: Anomalies) -> None:
    """Turn YAML's and OmegaConf's lists into tuples, which are hashable and plain data."""
    for field in fields(laws):
        value = getattr(laws, field.name)
        if isinstance(value, Sequence) and not isinstance(value, str):
            object.__setattr__(laws, field.name, tuple(value))
