"""STATION 1: from video to frame pairs.

Rooms, in the order data travels:
    video     reading and writing one video file
    sources/  where clips come from: a folder of videos, a film with actions
    apart     reading in a process of its own what may crash or hang
    resize    any picture to a square of the training size
    cache     decode a whole source once
    check     what a source holds and what is wrong with it
    gap       which gap H suits how fast a body moves
    pairs     which frames form (o_t, o_t+H)
    cuts      where one shot ends and another begins
    still     pairs in which nothing moves
    flow      where the pixels of each pair's later frame come from, once
    true_actions  the true motion of a small share of clips
    mixture   how often each source and each body is drawn
    loader    batches of pairs; splits by clip
    seek      any frame of a video file; a source without a cache
    segments  batches of pairs from runs that are decoded once
    prefetch  batches made ahead while the step before trains
    writers/  the other direction: film a world
"""
