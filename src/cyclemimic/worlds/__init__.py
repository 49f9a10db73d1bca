"""Stand-ins for the robot: seeded, deterministic, restorable worlds with scripted experts. No torch."""
