"""The checks of try.sh: every round once, a Byzantine client that took part, and a model that has learnt."""

import json
import sys
from pathlib import Path

folder = Path(sys.argv[1])
lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
summary = json.loads((folder / "summary.json").read_text())
gaps = [line["gap"] for line in lines if "gap" in line]
events = [event for line in lines for event in line.get("news", [])]
missing = sum(len(line["missing"]) for line in lines)
byzantine = sum(line["byzantine"] > 0 for line in lines)
print(f"{len(lines)} rounds, {byzantine} of them with the Byzantine client; {missing} replies missing")
print(f"f(x) - f(x*) from {gaps[0]:.3g} to {gaps[-1]:.3g}; events: {len(events)}")
assert [line["round"] for line in lines] == list(range(len(lines))), "rounds are missing or repeated"
assert summary["status"] == "stopped", summary["status"]
assert byzantine > len(lines) / 4, "the Byzantine client hardly took part"
assert gaps[-1] < 0.1 * gaps[0], "the model has not learnt"
