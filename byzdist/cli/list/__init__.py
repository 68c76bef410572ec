"""`byzdist list`: what a configuration can name and set."""

import argparse

HELP = "show what a configuration can name and set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the kind, the name, and how to print them."""
    parser.add_argument(
        "kind", metavar="KIND", nargs="?", help="a kind such as rule or attack, or a section such as transport"
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="one of that kind, with its parameters")
    parser.add_argument("--json", action="store_true", help="print it for a program to read")


def run(arguments: argparse.Namespace) -> int:
    """Print the catalogue, or the part of it that is asked for."""
    from byzdist.cli.list.catalogue import as_json, catalogue

    show = as_json if arguments.json else catalogue
    print(show(arguments.kind, arguments.name))
    return 0
