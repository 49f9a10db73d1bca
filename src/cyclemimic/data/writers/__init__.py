"""Making data that sources can read: `film` lets a world's expert act and records it."""
