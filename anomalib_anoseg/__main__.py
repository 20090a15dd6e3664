"""python -m anomalib_anoseg infer, report or page."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from jsonargparse import ArgumentParser

# Imported only if asked for: infer works where neither torch nor anomalib is installed.
COMMANDS = {
    "infer": ("inference.command", "find the defects of images with an exported model"),
    "report": ("report.commands", "compare models: tables of results as a page and Markdown"),
    "page": ("report.model_command", "look at one trained model, image by image"),
}
PROGRAM = "python -m anomalib_anoseg"


def main() -> int:
    """Run the subcommand; what is wrong with the input is one line, not a traceback."""
    choice = argparse.ArgumentParser(
        prog=PROGRAM,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:>8}  {told}" for name, (_, told) in COMMANDS.items()),
    )
    choice.add_argument("command", choices=COMMANDS)
    name = choice.parse_args(sys.argv[1:2]).command
    try:
        return run(getattr(import_module(f"anomalib_anoseg.{COMMANDS[name][0]}"), name))
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2


def run(command: Callable[..., int]) -> int:
    """Call a command with the arguments of the command line."""
    name = command.__name__
    parser = ArgumentParser(prog=f"{PROGRAM} {name}")
    parser.add_argument("--config", action="config", help="A file with arguments.")
    if name == "report":
        parser.add_argument("results", nargs="+", type=Path, help="CSV and JSON files, or folders.")
    parser.add_function_arguments(command, skip={"results"})
    arguments = parser.instantiate_classes(parser.parse_args(sys.argv[2:]))
    del arguments["config"]
    return command(**arguments)


if __name__ == "__main__":
    sys.exit(main())
