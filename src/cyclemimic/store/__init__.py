"""What lies on disk: everything here is written atomically, carries hashes, and is read without pickle.

Rooms:
    atomic       writing files and folders so that a kill never leaves half of one; hashes; JSON
    clips        what is known of many clips, as arrays
    frame_cache  decoded clips at one square size, as a memory map with an index
    flow_cache   optical flow of every frame pair, as a memory map with an index
    label_store  latent actions per frame pair, as Parquet shards with provenance
    index        what reading the frames of each episode needs, as one Parquet file
    weights      tensors as safetensors; the only room that needs torch, so nothing here imports it for you
"""
