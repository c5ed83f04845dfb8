"""Studies: questions that need several trainings, models or images side by side."""
