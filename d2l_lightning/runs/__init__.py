"""One run of an experiment: command line, run folder, trackers, report."""
