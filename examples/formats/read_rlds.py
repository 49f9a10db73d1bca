"""An RLDS dataset as TFDS wrote it, without TensorFlow: python examples/formats/read_rlds.py DATASET/VERSION"""

import sys

from cyclemimic.data.sources.rlds import RldsSource

source = RldsSource(sys.argv[1])
for clip in source.clips():
    episode = source.read(clip)
    axes = episode.action_space.axes if episode.action_space else ()
    print(clip.name, clip.instruction, episode.frames.shape, {a.name: a.unit for a in axes})
