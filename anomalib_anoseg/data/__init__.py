"""Data that the package brings along."""

from anomalib_anoseg.data.surface_demo import SurfaceDemo

__all__ = ["SurfaceDemo"]
