"""STATION 2: frame pairs to latent actions and back. One file for each idea of the paper."""
