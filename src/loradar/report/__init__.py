"""The report: its schema, its sections, and its pages in HTML and Markdown."""
