"""The trackers of experiments: what a run reports to them, and that it never waits for one."""
