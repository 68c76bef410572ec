"""`byzdist plan`: what will work, what it costs, and settings to try, before anything trains."""

import argparse
import math
import sys

from byzdist.cli.run import positive
from byzdist.host.processes import set_up_libraries

HELP = "say what a configuration promises and costs: probabilities, theory, bytes, memory, time; or propose settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the configuration, what to change in it, what the user knows, and the form of the answer."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or - for standard input")
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="for example method.cohort=8")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the page as JSON")
    form.add_argument(
        "--tune",
        action="store_true",
        help="print overrides alone, found by short runs: byzdist run CONFIG $(byzdist plan CONFIG --tune)",
    )
    parser.add_argument(
        "--budget",
        type=positive,
        metavar="N",
        help="rounds of all short runs of --tune together (default: 3 times those of the run)",
    )
    parser.add_argument(
        "--confidence",
        type=_probability,
        default=0.99,
        metavar="P",
        help="with which no round of the run may be unsafe without clipping (default: 0.99)",
    )
    parser.add_argument(
        "--lipschitz", type=_above_zero, metavar="L", help="the smoothness of the losses, in place of what is computed"
    )
    parser.add_argument("--pl", type=_above_zero, metavar="MU", help="μ of the Polyak-Łojasiewicz condition, likewise")
    parser.add_argument("--c", type=_above_zero, metavar="C", help="the constant of the (δ,c)-robust rule, likewise")
    parser.add_argument(
        "--paper-constants",
        action="store_true",
        help="warn by the paper's constant F of the rule, not by the sharp one",
    )
    parser.add_argument("--no-probe", action="store_true", help="do not run some rounds to estimate the time")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="worker processes of the run (default: as run starts)"
    )


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _probability(text: str) -> float:
    if not (value := _above_zero(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a probability below 1")
    return value


def _say(text: str) -> None:
    print(f"byzdist plan: {text}", file=sys.stderr)


def run(arguments: argparse.Namespace) -> int:
    """Print the page, or the overrides."""
    set_up_libraries()
    from byzdist.planning.plan import plan
    from byzdist.planning.subject import Options
    from byzdist.planning.tuning import tune

    options = Options(
        arguments.confidence,
        arguments.lipschitz,
        arguments.pl,
        arguments.c,
        arguments.paper_constants,
        not arguments.no_probe,
        arguments.workers,
    )
    if arguments.tune:
        tuned = tune(arguments.config, arguments.overrides, options, budget=arguments.budget, say=_say)
        _say(
            f"best of {tuned.tried}: loss {tuned.loss:.6g} after {tuned.rounds} rounds; as configured {tuned.before:.6g}"
        )
        print(" ".join(tuned.overrides()))
        return 0
    found = plan(arguments.config, arguments.overrides, options)
    print(found.json() if arguments.json else found.text())
    return 0
