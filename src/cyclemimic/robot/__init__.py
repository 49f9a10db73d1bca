"""Station 5: a robot that asks a policy server and acts, at a steady rate and within its limits. Imports no torch."""
