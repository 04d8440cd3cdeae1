"""The site's pages: plain Markdown, JSON and SVG, written from entries and recorded evidence.

Nothing here loads torch, and nothing a reader sees is typed by hand.
"""
