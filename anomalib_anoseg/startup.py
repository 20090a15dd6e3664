"""Wait for anomalib, then register AnoSeg with it.

Every Python process of an environment with this package runs :func:`install`. Up to Python 3.14
``anomalib_anoseg.pth`` calls it, from 3.15 on ``anomalib_anoseg.start`` (PEP 829). So this module
imports nothing that a starting interpreter has not loaded anyway, and only leaves a finder behind.
"""

import os
import sys

TYPE_CHECKING = False  # importing typing would cost 10 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

DISABLE = "ANOMALIB_ANOSEG_DISABLE"
HOST = "anomalib.models"


def install() -> None:
    """Register AnoSeg as soon as ``anomalib.models`` is imported.

    The environment variable ``ANOMALIB_ANOSEG_DISABLE=1`` turns it off.
    """
    if os.environ.get(DISABLE, "0") not in ("", "0") or HOST in sys.modules:
        return
    # A virtual environment reads its .pth files twice.
    if not any(isinstance(finder, _HostFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostFinder())


class _HostFinder:
    """Finds ``anomalib.models`` once, by asking everybody else, and listens to its loading."""

    def find_spec(
        self,
        name: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        del path, target
        if name != HOST:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            _register_after(spec.loader)
        return spec


def _register_after(loader: "Loader") -> None:
    load = loader.exec_module

    def exec_module(module: "ModuleType") -> None:
        try:
            load(module)
        except BaseException:  # Ctrl-C within its seven seconds, or a package that is missing
            sys.meta_path.insert(0, _HostFinder())
            raise
        try:
            from anomalib_anoseg.plugin import register

            register()
        # Whatever is wrong with this package, anomalib itself must go on working.
        except Exception as error:  # noqa: BLE001
            import warnings

            warnings.warn(
                f"anomalib-anoseg could not register AnoSeg with anomalib: {error!r}. "
                f"anomalib works without it; {DISABLE}=1 silences this.",
                stacklevel=2,
            )

    loader.exec_module = exec_module  # type: ignore[method-assign]
