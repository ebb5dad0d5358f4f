"""Faces in pictures and videos: found, followed, cut out."""

# So many frames wait in memory, at most, for the next one that faces are detected in.
MOST_BETWEEN = 30
