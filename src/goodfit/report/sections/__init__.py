"""The sections of a report, one per file: each renders part of the record of a run, or nothing if that part is absent."""
