"""Folders of runs that nobody has run, for tests of what reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from byzdist.config.reading import put


def run_folder(
    folder: Path,
    losses: Sequence[float | None],
    status: str = "finished",
    settings: dict[str, Any] | None = None,
    lines: Any = None,
    every: int = 10,
) -> Path:
    """Write a run's folder and return it.

    Args:
        folder: which is made.
        losses: those of rounds 0, ``every``, 2 ``every``, and so on; the accuracy is one minus the loss.
        status: how it ended; "" for a run that goes on.
        settings: by dotted keys, besides those of a plain run.
        lines: more keys of some rounds' lines, by round.
        every: how many rounds from one evaluation to the next.
    """
    folder.mkdir(parents=True)
    tree: dict[str, Any] = {"name": "made", "seed": 0, "rounds": 100}
    for key, value in ({"method.name": "byz_vr_marina_pp"} | (settings or {})).items():
        tree = put(tree, key.split("."), value, key)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    described = {
        "byzdist": "0.0.1",
        "method": {"batch_size": 8, "full_batch": "all"},
        "metrics": {"loss": "lower", "accuracy": "higher"},
    }
    (folder / "run.json").write_text(json.dumps(described))
    (folder / "clients.csv").write_text("client,samples\n0,100\n1,5\n2,50\n3,50\n")
    text = []
    for round_ in range(every * (len(losses) - 1) + 1):
        line: dict[str, Any] = {"round": round_, "kind": "sampled" if round_ else "full", "cohort": [0, 1, 2, 3]}
        line |= {"missing": {}, "byzantine": 1, "clipped": 0, "clip_level": 1.0 if round_ else None}
        line |= {"bytes_up": 100, "seconds": {"total": 0.5}}
        if round_ % every == 0:
            loss = losses[round_ // every]
            line |= {"loss": loss, "accuracy": None if loss is None else 1 - loss}
        text.append(json.dumps(line | (lines or {}).get(round_, {})))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in text) if losses else "")
    if status:
        (folder / "summary.json").write_text(json.dumps({"status": status, "reason": f"it is {status}"}))
    return folder


def grid(folder: Path, diverging: tuple[str, str, int] | None = None) -> Path:
    """Write a sweep of two rules, two attacks and three seeds into a folder and return it; the loss tells them apart.

    Args:
        folder: which is made.
        diverging: rule, attack and seed of a run that diverges after round 10.
    """
    for i, rule in enumerate(("krum", "mean")):
        for j, attack in enumerate(("alie", "ipm")):
            for seed in range(3):
                last = 0.1 * i + 0.2 * j + 0.01 * seed
                settings = {"aggregation.rule.name": rule, "attack.name": attack, "seed": seed}
                if attack == "ipm":
                    settings["attack.scale"] = 2.0  # which belongs to the name, and is no difference of its own
                gone = (rule, attack, seed) == diverging
                losses = [0.9, 0.5, *([] if gone else [last])]
                run_folder(folder / f"{rule}-{attack}-{seed}", losses, "diverged" if gone else "finished", settings)
    return folder
