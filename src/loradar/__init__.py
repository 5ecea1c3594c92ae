"""Small adversarial low-rank adapters for frozen image classifiers."""

__version__ = "0.1.0"
