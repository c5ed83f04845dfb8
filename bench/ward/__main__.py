"""The command line of the ward: write, and more."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.ward.images import store_images
from bench.ward.write import plan_cases, write_cases


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m bench.ward", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write case files and their answers")
    write.add_argument("folder", type=Path)
    write.add_argument("--answers", type=Path)
    write.add_argument("--cifar10", type=Path)
    write.add_argument("--clothing", type=Path)
    write.add_argument("--per-cause", type=int, default=3)
    write.add_argument("--controls", type=int, default=80)
    write.add_argument("--draw", type=int, default=1)
    options = parser.parse_args()
    data = store_images(options.folder / "data", options.cifar10, options.clothing)
    specs = plan_cases(data, options.folder / "data", options.per_cause, options.controls, options.draw)
    write_cases(specs, options.folder, options.answers or options.folder.with_name(options.folder.name + "_answers.json"))
    print(f"{len(specs)} cases in {options.folder}")


if __name__ == "__main__":
    main()
