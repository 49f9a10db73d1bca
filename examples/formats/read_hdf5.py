"""HDF5 files of LIBERO or robomimic, one or a folder: python examples/formats/read_hdf5.py FOLDER_OR_FILE"""

import sys

from cyclemimic.data.sources.hdf5 import Hdf5Source

source = Hdf5Source(sys.argv[1])
for clip in source.clips():
    episode = source.read(clip)
    known = episode.actions is not None  # not with every controller
    print(clip.name, clip.instruction, episode.frames.shape, episode.actions[0] if known else None)
