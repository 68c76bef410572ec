"""The report: one page of HTML on a run or a sweep, which needs no other file and no network."""
