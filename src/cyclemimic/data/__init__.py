"""STATION 1: from video to frame pairs.

Rooms, in the order data travels:
    video     reading and writing one video file
    sources/  where clips come from: a folder of videos, a film with actions
    resize    any picture to a square of the training size
    cache     decode a whole source once
    pairs     which frames form (o_t, o_t+H)
    flow      where the pixels of each pair's later frame come from, once
    true_actions  the motion of a small share of clips
    mixture   how often each body is drawn
    loader    batches of pairs; splits by clip
    prefetch  batches made ahead while the step before trains
    writers/  the other direction: film a world
"""
