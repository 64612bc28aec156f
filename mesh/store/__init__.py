"""Where blobs are kept: the port and its two implementations, on disk and in memory."""
