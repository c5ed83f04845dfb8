"""The sections of the report, one a file: each takes the record of a run and gives markup, empty when there is nothing to tell."""
