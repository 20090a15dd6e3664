"""Register AnoSeg and its demo data with a loaded anomalib.

anomalib has no entry points for models. It finds them as subclasses that have been imported, as
attributes of ``anomalib.models`` and through a list of modules that it allows in configurations.
"""

from importlib.metadata import version

OLDEST_ANOMALIB = (2, 7)


def register() -> None:
    """Make ``AnoSeg`` and ``SurfaceDemo`` known under their bare names.

    Raises:
        RuntimeError: If anomalib is older than 2.7.
    """
    found = version("anomalib")
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_ANOMALIB:
        msg = f"anomalib >= 2.7 is needed, found {found}"
        raise RuntimeError(msg)

    from anomalib import data, models

    from anomalib_anoseg.data import SurfaceDemo
    from anomalib_anoseg.lightning_model import AnoSeg

    models.AnoSeg = AnoSeg  # type: ignore[attr-defined]
    models.__all__.append("AnoSeg")
    # Saved configurations name the module that defines the class.
    models.ALLOWED_MODULES |= {"anomalib_anoseg", AnoSeg.__module__}
    data.SurfaceDemo = SurfaceDemo  # type: ignore[attr-defined]
