"""Image reconstruction networks (Table IV of the survey): one file per method, read like its paper."""
