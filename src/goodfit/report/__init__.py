"""Reports: a run or a study explained in one HTML file, made from its folder alone."""
