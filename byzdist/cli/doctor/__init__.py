"""`byzdist doctor`: what this host offers a run."""

import argparse

HELP = "check what this host offers a run, and say what to change"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the doctor looks at everything."""


def run(arguments: argparse.Namespace) -> int:
    """Print what every check finds; return 1 if any finding is an error."""
    from byzdist.cli.doctor.checks import examine

    findings = examine()
    print("\n".join(map(str, findings)))
    return int(any(finding.level == "error" for finding in findings))
