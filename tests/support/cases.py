"""The runs that are compared with the reference, in one process and with real ones."""

from typing import Any

BASE: dict[str, Any] = {
    "name": "case",
    "seed": 5,
    "rounds": 30,
    "clients": {"count": 9, "byzantine": 4},
    "data": {"name": "synthetic", "samples": 90, "features": 12, "separation": 2.0},
    "model": {"name": "logistic_regression", "l2": 0.01},
    "method": {"name": "byz_vr_marina_pp", "step_size": 0.3, "p": 0.2, "batch_size": 8, "cohort": 5, "clip": 1.0},
    # Steps and rule tolerate 2 of 9, and 4 are Byzantine: what is computed is compared here, not how well.
    "aggregation": {"rule": "coordinate_median", "pre": [{"name": "bucketing", "size": 2}], "allow_breakdown": True},
    "evaluate": {"every": 10},
    "device": "cpu",
    "dtype": "float64",
}
ATTACKS: dict[str, dict[str, Any]] = {
    "none": {},
    "bit_flip": {},
    "label_flip": {},
    "gaussian": {"sigma": 0.5},
    "alie": {},
    "ipm": {"epsilon": 0.7},
    "mimic": {"target": 2},
    "shift_back": {},
    "tests.support.attacks:along": {},
    "zero": {},
    "inf": {},
    "nan": {},
}
ESTIMATES = ("sgd", "momentum_sgd")
MARINAS = ("byz_vr_marina_pp", "byz_vr_marina_pp_plus")
RAND_K = {"name": "rand_k", "ratio": 0.35}
SHARED = {**RAND_K, "support": "shared"}


def case(
    attack: str | dict[str, Any] = "shift_back", compression: dict[str, Any] | None = None, **method: Any
) -> dict[str, Any]:
    """Return a configuration; the keyword arguments go to the method, None removes a key."""
    merged = {**BASE["method"], **method}
    if merged["name"] in ESTIMATES:
        del merged["p"]
    if merged["name"] == "momentum_sgd":
        merged.setdefault("momentum", 0.8)
    return {
        **BASE,
        "method": {key: value for key, value in merged.items() if value is not None},
        "attack": {"name": attack, **ATTACKS[attack]} if isinstance(attack, str) else attack,
        **({"compression": compression} if compression else {}),
    }


def _cases() -> dict[str, dict[str, Any]]:
    full: dict[str, Any] = {"name": "byz_vr_marina", "cohort": None, "clip": None}
    cases = {f"attack {name}": case(name) for name in ATTACKS}
    cases |= {f"attack {name}, rand_k": case(name, RAND_K) for name in ATTACKS}
    for name in (*MARINAS, *ESTIMATES):
        for clip in (0.5, "none"):
            cases[f"{name}, clip {clip}"] = case(name=name, clip=clip, full_cohort=7)
        cases[f"{name}, as in the authors' code"] = case(name=name, clip_reference="gradient", batches="shared")
        cases[f"{name}, rand_k"] = case("alie", RAND_K, name=name)
        cases[f"{name}, shared rand_k"] = case("bit_flip", SHARED, name=name)
        cases[f"{name}, label_flip"] = case("label_flip", name=name)
        cases[f"{name}, along g"] = case("tests.support.attacks:along", name=name)
    for name in MARINAS:
        cases[f"{name}, full_batch"] = case("gaussian", name=name, full_batch=20)
        cases[f"{name}, full_batch, rand_k"] = case("shift_back", RAND_K, name=name, full_batch=20)
        cases[f"{name}, g0 zero"] = case("ipm", name=name, g0="zero")
    cases["byz_vr_marina"] = case("bit_flip", **full)
    cases["byz_vr_marina, rand_k"] = case("alie", RAND_K, **full)
    cases["byz_vr_marina, full_batch"] = case("mimic", full_batch=20, **full)
    growing: dict[str, Any] = {"clip_growth": 1.0, "clip": 5.0, "p": 0.02}
    cases["byz_vr_marina_pp, capped"] = case("bit_flip", **growing)
    cases["momentum_sgd, capped"] = case("gaussian", name="momentum_sgd", **growing)
    cases["byz_vr_marina_pp, capped absolutely"] = case("gaussian", clip_max=0.05)
    cases["shift_back, cohort in halves"] = case(cohort=4)
    cases["shift_back, scale auto"] = case({"name": "shift_back", "scale": "auto"}, clip="none")
    cases["bit_flip, form difference"] = case({"name": "bit_flip", "form": "difference"})
    cases["ipm, form difference"] = case({"name": "ipm", "form": "difference", "epsilon": 2.0})
    cases["alie, ddof 1"] = case({"name": "alie", "ddof": 1}, full_cohort=7)
    cases["mimic, worst"] = {**case({"name": "mimic"}), "data": {**BASE["data"], "split": "iid"}}
    iid = {"data": {**BASE["data"], "split": "iid"}}
    cases["trimmed_mean, iid"] = {**case("alie", RAND_K), **iid, "aggregation": {"rule": "trimmed_mean"}}
    cases["iid among all"] = {**case("none"), "data": {**BASE["data"], "split": {"name": "iid", "holders": "all"}}}
    cases["krum, iid"] = {**case("label_flip"), **iid, "aggregation": {"rule": "krum", "declared_byzantine": 3}}
    cases["everything at once"] = case("mimic", SHARED, clip=2.0, clip_reference="gradient", g0="zero", full_cohort=6)
    return cases


CASES = _cases()
THREE_CLASSES = {**case("label_flip", RAND_K), "data": {**BASE["data"], "classes": 3}}
