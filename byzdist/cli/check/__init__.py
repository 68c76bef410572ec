"""`byzdist check`: whether a run can start with a configuration, and what its defaults became."""

import argparse

HELP = "check a configuration as run does, and print it with what its defaults became"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration and what to change in it."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file")
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="for example method.clip=none")


def run(arguments: argparse.Namespace) -> int:
    """Print the complete configuration; warnings go to the error stream."""
    import logging

    from byzdist.cli.check.rehearsal import rehearse

    logging.basicConfig(format="byzdist: warning: %(message)s")
    print(rehearse(arguments.config, arguments.overrides))
    return 0
