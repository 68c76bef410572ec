"""What a run reports: log lines, metrics, progress, warnings, pictures."""
