"""Bricks: the torch batches that travel, transformer blocks, vision stems."""
