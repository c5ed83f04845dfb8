"""Studies: what several trainings, or the features of one net, say together."""
