"""Large blobs: files of their own, whole or still arriving, and the sums of their pieces."""
