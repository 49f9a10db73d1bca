"""A folder of videos, or of folders of pictures: python examples/formats/read_folder.py VIDEOS"""

import sys

from cyclemimic.data.sources.folder import FolderSource

source = FolderSource(sys.argv[1])
for clip in source.clips():
    episode = source.read(clip)
    print(
        clip.name, clip.embodiment, clip.instruction, f"{clip.fps:g} Hz", episode.frames.shape, source.remarks_of(clip)
    )
