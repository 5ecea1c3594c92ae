"""Jobs: what the command line and Python run. Each resolves its settings to objects, then runs on them."""
