"""The pages of the Python reference, which mkdocstrings fills from docstrings without importing anything."""

import byzdist

INTERFACES = {  # what people implement or are given, by page
    "Rules and steps": [
        "byzdist.aggregation.rules.Rule",
        "byzdist.aggregation.rules.PreStep",
        "byzdist.aggregation.rules.Facts",
        "byzdist.aggregation.points.Points",
        "byzdist.aggregation.columns.Columns",
        "byzdist.aggregation.engine.Aggregated",
        "byzdist.aggregation.engine.max_byzantine",
    ],
    "Methods": ["byzdist.methods.base.Method", "byzdist.methods.base.ClientTask", "byzdist.problem.oracle.Oracle"],
    "Compressors": ["byzdist.compression.base.Compressor"],
    "Attacks": ["byzdist.attacks.base"],
    "Data and tasks": ["byzdist.problem.data.base"],
    "Rounds and registries": [
        "byzdist.rounds.Round",
        "byzdist.rounds.Replies",
        "byzdist.registry.Registry",
        "byzdist.registry.RunFacts",
        "byzdist.registry.checks_run",
        "byzdist.errors.ConfigError",
        "byzdist.errors.RunError",
    ],
}

_MODULE = "\n    options: {show_root_heading: false, show_root_toc_entry: false}"  # its docstring begins the page


def pages() -> dict[str, str]:
    """Return the text of each page by its address."""
    offered = "\n\n".join(f"::: {module}.{name}" for name, module in sorted(byzdist._OFFERED.items()))
    found = {
        "reference/index.md": "# The Python interface\n\nWhat `import byzdist` offers. The other pages are for pieces of your own; "
        f"[Contributing](../contributing.md#adding-a-piece) has an example of each kind.\n\n{offered}\n"
    }
    for title, names in INTERFACES.items():
        own = [name for name in names if name.rpartition(".")[2] not in byzdist._OFFERED]
        listed = "\n\n".join(f"::: {name}{_MODULE if name.endswith('.base') else ''}" for name in own)
        found[f"reference/{title.lower().replace(' ', '_')}.md"] = f"# {title}\n\n{listed}\n"
    return found
