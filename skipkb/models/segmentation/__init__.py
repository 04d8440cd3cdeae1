"""Segmentation networks (Table III of the survey): one file per method, read like its paper."""
