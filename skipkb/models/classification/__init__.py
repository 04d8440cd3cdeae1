"""Image classification (the survey's Table I)."""
