"""The pages of reports, one file for each kind of folder."""
