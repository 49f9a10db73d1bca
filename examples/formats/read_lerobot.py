"""A LeRobot dataset of v2.0, v2.1 or v3.0: python examples/formats/read_lerobot.py PATH_OR_OWNER/NAME"""

import sys

from cyclemimic.data.sources.lerobot import LeRobotSource

source = LeRobotSource(sys.argv[1])
for clip in source.clips():
    episode = source.read(clip)
    axes = episode.action_space.axes if episode.action_space else ()
    print(clip.name, clip.instruction, episode.frames.shape, {a.name: a.unit for a in axes})
