"""`report.html`: one self-contained page of a run, of a sweep, or of several runs beside each other."""
