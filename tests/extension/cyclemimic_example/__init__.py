"""One of each kind of thing that CycleMimic can be given from outside, a file each."""
