"""STATION 6: how good latent actions and policies are, always beside controls that could explain it."""
