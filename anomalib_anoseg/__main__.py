"""python -m anomalib_anoseg infer --model model.xml --input FOLDER."""

import sys

from jsonargparse import auto_cli

from anomalib_anoseg.inference.command import infer


def main() -> int:
    """Run the subcommand; what is wrong with the input is one line, not a traceback."""
    try:
        return auto_cli({"infer": infer}, as_positional=False, prog="python -m anomalib_anoseg")
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    sys.exit(main())
