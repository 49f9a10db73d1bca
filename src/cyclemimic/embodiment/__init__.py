"""Tables of what bodies can be told to do, with units and limits. Numpy only."""
