"""A split of CALVIN; no pickle is run: python examples/formats/read_calvin.py SPLIT"""

import sys

from cyclemimic.data.sources.calvin import CalvinSource

source = CalvinSource(sys.argv[1])
for clip in source.clips():
    episode = source.read(clip)
    print(clip.name, clip.instruction, episode.frames.shape, episode.actions.shape)
