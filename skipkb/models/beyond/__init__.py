"""Networks of works beyond the four tables of the survey: one file per method, read like its paper."""
