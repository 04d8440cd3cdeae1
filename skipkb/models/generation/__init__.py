"""Methods that make pictures."""
