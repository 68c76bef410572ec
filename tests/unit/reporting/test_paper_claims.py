"""The check of the paper's claims passes where they hold and fails where they do not."""

import pytest

from tests.benchmarks import paper_claims
from tests.support.folders import run_folder

RULE = {"aggregation.rule": {"name": "krum"}}


def network(folder, clip, attack, accuracy, seed=0, status="finished"):
    settings = {**RULE, "attack": {"name": attack}, "method.clip": clip, "seed": seed}
    run = run_folder(folder / f"{clip}{attack}{seed}", [1.0, 1 - accuracy], settings=settings)
    (run / "summary.json").write_text(f'{{"status": "{status}", "accuracy": {accuracy}}}')
    return run


@pytest.mark.parametrize(
    ("clipped", "unclipped", "withstood", "near"), [(0.86, 0.1, True, True), (0.84, 0.3, False, False)]
)
def test_shares_of_the_better_attack_free_accuracy(tmp_path, clipped, unclipped, withstood, near):
    for clip, free, attacked in ((1.0, 0.9, clipped), ("none", 0.95, unclipped)):
        for seed in (0, 1):
            network(tmp_path, clip, "none", free, seed)
            network(tmp_path, clip, "shift_back", attacked + 0.01 * seed - 0.005, seed)
    claims = {claim.subject: claim for claim in paper_claims.check(list(tmp_path.iterdir()))}
    attacked = claims["krum, shift_back, clipped: withstood"]
    assert f"accuracy {clipped:.3f} (s 0.007), {clipped / 0.95:.0%} of 0.950" in attacked.measured
    assert attacked.holds is withstood and claims["krum, shift_back, not clipped: near chance"].holds is near
    assert claims["krum, none, clipped: withstood"].holds and claims["krum, none, not clipped"].holds is None
    assert claims["krum, shift_back, not clipped: not withstood"].holds


def logistic(folder, clip, cohort, gaps, step=0.1):
    settings = {"method.clip": clip, "method.cohort": cohort, "method.step_size": step, "clients": {"count": 20}}
    lines = {2 * i: {"gap": gap} for i, gap in enumerate(gaps)}
    run = run_folder(folder / f"{clip}{cohort}{step}", [0.5] * len(gaps), settings=settings, lines=lines, every=2)
    (run / "summary.json").write_text(f'{{"status": "finished", "gap": {gaps[-1]}}}')


def figure_1(folder, *, clipped, plain, everyone):
    logistic(folder, 1.0, 4, clipped)
    logistic(folder, "none", 4, plain)
    logistic(folder, "none", 20, everyone)
    return {claim.subject: claim for claim in paper_claims.check(list(folder.iterdir()))}


def test_linear_convergence_is_a_straight_line_down_to_rounding(tmp_path):
    line = [0.99994**i for i in range(30)] + [1e-14, 3e-15] * 20
    logistic(tmp_path, 1.0, 4, [1.0, 0.3, 0.9], step=1.0)  # a worse step size
    claims = figure_1(tmp_path, clipped=line, plain=[1.0, 0.1, 0.6], everyone=[1.0, 1e-9])
    assert [claim.holds for claim in claims.values()] == [True] * 3
    assert (
        "step 0.1: gap 1 to 3e-15, times 0.97 in 1000 rounds, R² at least 1.000"
        in claims["a cohort, clip 1.0"].measured
    )


def test_other_curves_of_figure_1_fail(tmp_path):
    stairs = [1.0] * 20 + [1e-9] * 3 + [0.1] * 20
    claims = figure_1(tmp_path, clipped=stairs, plain=[1.0, 0.4], everyone=[1.0, 0.05])
    assert [claim.holds for claim in claims.values()] == [False] * 3


def test_the_exit_code_says_whether_all_claims_hold(tmp_path, capsys):
    run = network(tmp_path, 1.0, "none", 0.9)
    assert paper_claims.main([str(run)]) == 0 and "every claim holds" in capsys.readouterr().out
    run = network(tmp_path, "none", "shift_back", 0.9)
    assert (
        paper_claims.main([str(run)]) == 1 and "FAILS  krum, shift_back, not clipped: near" in capsys.readouterr().out
    )
    assert paper_claims.main([str(tmp_path / "nothing")]) == 2
