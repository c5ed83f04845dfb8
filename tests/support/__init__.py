"""What several test files share: commands in this process, small runs, made folders, plain trainings."""
