"""Register AnoSeg and its demo data with a loaded anomalib.

anomalib has no entry points for models. It finds them as subclasses that have been imported, as
attributes of ``anomalib.models`` and through a list of modules that it allows in configurations.
"""

from importlib import import_module
from importlib.metadata import version
from types import ModuleType

OLDEST_ANOMALIB = (2, 7)
# What appears in which module of anomalib, and where it really lives.
OFFERS = (
    ("anomalib.models", "AnoSeg", "anomalib_anoseg.lightning_model"),
    ("anomalib.data", "SurfaceDemo", "anomalib_anoseg.data"),
)


def register() -> None:
    """Make ``AnoSeg`` and ``SurfaceDemo`` known under their bare names.

    Raises:
        RuntimeError: If anomalib is older than 2.7.
    """
    found = version("anomalib")
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_ANOMALIB:
        msg = f"anomalib >= 2.7 is needed, found {found}"
        raise RuntimeError(msg)
    for host, name, home in OFFERS:
        _offer(import_module(host), name, home)
        import_module(home)  # from here on it is a subclass that anomalib can find
    # Saved configurations name the module that defines the class.
    models = import_module("anomalib.models")
    models.ALLOWED_MODULES.update({"anomalib_anoseg", "anomalib_anoseg.lightning_model"})


def _offer(host: ModuleType, name: str, home: str) -> None:
    """Give host an attribute that is looked up in home when it is first used.

    Not at once: if the user's first import is ours, home is loading anomalib just now and does not
    have the attribute yet.
    """
    others = getattr(host, "__getattr__", None)

    def __getattr__(wanted: str) -> object:  # noqa: N807
        if wanted == name:
            return getattr(import_module(home), name)
        if others is not None:
            return others(wanted)
        msg = f"module {host.__name__!r} has no attribute {wanted!r}"
        raise AttributeError(msg)

    host.__getattr__ = __getattr__  # type: ignore[method-assign]
    if name not in host.__all__:
        host.__all__.append(name)
