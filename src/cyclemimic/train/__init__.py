"""How each part is learnt: the loop that every stage shares, its checkpoints and optimisers, then one file a stage."""
