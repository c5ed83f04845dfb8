"""The report: one HTML file that tells a run or a study to a person, made from its folder alone."""
