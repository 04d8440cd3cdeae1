"""What two or more models, or procedures on models, share."""
