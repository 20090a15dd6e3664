"""The configurations that travel with the package."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def config(name: Path | None = None) -> int:
    """Print the file of a configuration, for ``anomalib train --config``, or all names.

    Args:
        name: Of a configuration; all names are printed without it.

    Returns:
        The exit status, 0.
    """
    print("\n".join(config_names()) if name is None else config_path(name.as_posix()))  # noqa: T201
    return 0


def config_names() -> list[str]:
    """Return the names of all configurations, such as ``cpu`` or ``benchmark/demo``."""
    folder = _folder()
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def config_path(name: str) -> Path:
    """Return the file of a configuration.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in config_names():
        msg = f"config must be one of {', '.join(config_names())}, got {name!r}"
        raise ValueError(msg)
    return _folder() / f"{name}.yaml"


def _folder() -> Path:
    """Return the folder in the wheel, or the one beside the package in a source tree."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"
