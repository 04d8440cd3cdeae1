"""Object detectors (Table II of the survey): one file per method, read like its paper."""
