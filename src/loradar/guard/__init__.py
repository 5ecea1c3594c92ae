"""The guard: adapters that vote, an identifier that names the attack, defenses, and the traffic monitor."""
