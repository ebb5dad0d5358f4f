"""Data sets: what is in a release, and where."""

# They recognise almost anything, so each is asked only where nothing before it fits.
FALLBACKS = ("path_files", "class_folders")
