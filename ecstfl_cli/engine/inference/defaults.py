"""How faces are looked at unless told otherwise, on the command line and from Python alike."""

# Faces are detected in every Nth of the frames looked at.
DETECT_EVERY = 3
# Seconds: over which probabilities are averaged, that a model for clips sees, and from one such window to the next.
SMOOTHING, WINDOW, STRIDE = 0.3, 1.0, 0.5
# Faces computed at a time, and samples of path files, whose clips are many frames each.
BATCH_SIZE, LISTED_BATCH_SIZE = 32, 16
