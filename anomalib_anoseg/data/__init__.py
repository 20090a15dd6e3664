"""Data that the package brings along, and reads to judge a model."""

from anomalib_anoseg.data.surface_demo import SurfaceDemo

__all__ = ["SurfaceDemo"]
