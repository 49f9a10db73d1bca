"""What lies on disk: everything here is written atomically, carries hashes, and is read without pickle.

Rooms:
    atomic         writing files and folders so that a kill never leaves half of one; hashes; JSON
    clips          what is known of many clips, as arrays
    frame_cache    decoded clips at one square size, as a memory map with an index
    flow_cache     optical flow of every frame pair, as a memory map with an index
    feature_rows   patch features as bytes, and what they were made from
    feature_cache  patch features of every frame, as a memory map with an index
    label_store    latent actions per frame pair, as Parquet shards with provenance
    lineage        what a run or a store was made from, and under which licences
    index          what reading the frames of each episode needs, as one Parquet file
    weights        tensors as safetensors; the only room that needs torch, so nothing here imports it for you
"""
