"""The shipped quickstart survives every attack that is shipped, and hostile clients that know the clipping level: 5 of 20."""

import pytest

from byzdist.attacks import ATTACKS
from tests.benchmarks.robustness import FAULTS, SETTINGS, outcome
from tests.support.attacks import HOSTILE

QUICKSTART = SETTINGS["quickstart"]
AT_ONCE = [attack for attack in [*ATTACKS, *HOSTILE] if attack not in FAULTS]


@pytest.mark.parametrize("attack", AT_ONCE)
def test_no_attack_holds_the_quickstart_up(attack):
    """After a tenth of its rounds the gap is 0.03, of 1.3 at the start; with buckets of two it is 0.12 under gaussian, 1e14 under far."""
    assert outcome(QUICKSTART, attack, 0, ["rounds=300"])["gap"] < 0.05


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("attack", AT_ONCE)
def test_the_quickstart_ends_at_the_optimum_whatever_the_attack(attack, seed):
    assert outcome(QUICKSTART, attack, seed)["gap"] <= (1e-2 if attack in HOSTILE else 1e-4)


@pytest.mark.soak
@pytest.mark.parametrize("attack", FAULTS)
def test_the_quickstart_ends_at_the_optimum_whatever_the_fault(attack):
    assert outcome(QUICKSTART, attack, 0)["gap"] <= 1e-4
