"""The command anomalib-anoseg, also as python -m anomalib_anoseg."""

import argparse
import io
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, get_type_hints

PROGRAM = "anomalib-anoseg"


class Command(NamedTuple):
    """A subcommand: a function of its name that returns the exit status.

    Attributes:
        module: Below this package; imported only if asked for, because infer works where neither
            torch nor anomalib is installed.
        summary: What it does, for the list of commands.
        positional: An argument without ``--``.
        meaning: Of that argument, for the command's help.
        nargs: How often it comes, as argparse writes it.
    """

    module: str
    summary: str
    positional: str = ""
    meaning: str = ""
    nargs: str | None = None


COMMANDS = {
    "infer": Command("inference.command", "find the defects of images with an exported model"),
    "page": Command("report.model_command", "look at one trained model, image by image"),
    "history": Command(
        "report.history_command", "see what infer has found over time", "results",
        "folder that infer has written, its --output",
    ),
    "report": Command(
        "report.commands", "compare models: a page and Markdown", "results",
        "CSV files of anomalib benchmark, JSON files of benchmarks/, or folders of them", "+",
    ),
    "sheet": Command(
        "report.sheet", "see synthetic anomalies of your own images", "folder",
        "folder of good images",
    ),
    "export": Command("export.command", "export a checkpoint, with other sensitivities if wanted"),
    "validate": Command("report.validate_command", "hold an export against its checkpoint"),
    "adapt": Command("training.adapt_command", "call new good parts good, without a new training"),
    "config": Command(
        "utils.configs", "name the configurations for anomalib train", "name",
        "one of them, whose file is wanted; all are listed by default", "?",
    ),
}  # fmt: skip


def main() -> int:
    """Run the subcommand; what is wrong with the input is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be in no encoding
            stream.reconfigure(errors="backslashreplace")
    choice = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Commands beside those of anomalib. Each has its own --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:>10}  {command.summary}" for name, command in COMMANDS.items()),
    )
    choice.add_argument("command", choices=COMMANDS)
    name = choice.parse_args(sys.argv[1:2]).command
    try:
        return run(name, sys.argv[2:])
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:  # where only what infer needs is installed
        if str(error.name).startswith("anomalib_anoseg"):
            raise
        print(f"error: {name} needs {error.name}: install the package as a whole", file=sys.stderr)  # noqa: T201
        return 2
    except (OSError, ValueError, argparse.ArgumentError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2


def run(name: str, arguments: list[str]) -> int:
    """Call a command with the arguments of the command line."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keep the lines of the text behind the options."""

    command = COMMANDS[name]
    module = import_module(f"anomalib_anoseg.{command.module}")
    function: Callable[..., int] = getattr(module, name)
    parser = ArgumentParser(
        prog=f"{PROGRAM} {name}",
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog=getattr(module, "EPILOG", None),
        formatter_class=HelpFormatter,
        exit_on_error=False,
    )
    if command.positional:
        parser.add_argument(
            command.positional, nargs=command.nargs, type=Path, help=command.meaning
        )
    parser.add_argument("--config", action="config", help="A file with arguments.")
    parser.add_function_arguments(function, skip={command.positional})
    for action in parser._actions:  # noqa: SLF001 - of what a function's arguments became
        if get_type_hints(function).get(action.dest) is bool:
            action.nargs, action.const = "?", True  # --watch alone, and still --masks false
    chosen = parser.instantiate_classes(parser.parse_args(arguments))
    del chosen["config"]
    return function(**chosen)


if __name__ == "__main__":
    sys.exit(main())
