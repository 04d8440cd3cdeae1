"""Reference implementations: one file per method, plain PyTorch, to be read beside the paper.

The folders are those of the catalogue; a file carries the key of its entry. Nothing here knows the catalogue.
"""
