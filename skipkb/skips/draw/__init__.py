"""The picture of a network: its layers on a line, an arc for every shortcut."""
