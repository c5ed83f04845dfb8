"""The report: one HTML file that tells a training run to a person, made from the run folder alone."""
