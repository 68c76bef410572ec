"""What a run tells people: log lines, metrics, progress, warnings, pictures."""
