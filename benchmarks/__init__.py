"""Speed and memory, each claim by a script of its own; results as JSON under `results/`."""
