"""The same function under the name by which sources and caches know it. Engineering."""

from cyclemimic.embodiment.resize import Fit, resampler_name, resize_square

__all__ = ["Fit", "resampler_name", "resize_square"]
