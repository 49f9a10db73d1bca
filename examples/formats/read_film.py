"""What `cyclemimic film` wrote: video, and the actions apart from it: python examples/formats/read_film.py FILM"""

import sys

from cyclemimic.data.sources.film import FilmSource

source = FilmSource(sys.argv[1])
for clip in source.clips():
    episode = source.read(clip)
    print(clip.name, clip.instruction, episode.frames.shape, episode.actions.shape)
