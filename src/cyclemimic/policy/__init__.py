"""STATION 3: a vision-language model that predicts latent actions, and a head that turns them into physical ones."""
