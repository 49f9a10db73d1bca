"""CycleMimic: learn robot actions from video that has no action labels."""
