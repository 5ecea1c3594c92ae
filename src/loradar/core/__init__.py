"""Floor 1: types, balls, losses, errors, randomness, and what every family above needs. Imports nothing of ours."""
