"""Lists to samples to batches: path files, manifests, labels, and whether each file is there."""
