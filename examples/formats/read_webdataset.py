"""Plain tar shards with videos or numbered pictures: python examples/formats/read_webdataset.py SHARDS"""

import sys

from cyclemimic.data.sources.webdataset import WebDatasetSource

source = WebDatasetSource(sys.argv[1])
for clip in source.clips():
    episode = source.read(clip)
    print(clip.name, clip.instruction, f"{clip.fps:g} Hz", episode.frames.shape)
