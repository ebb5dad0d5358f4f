"""ecstfl: facial expression recognition in stills and video, around the EC-STFL loss."""

__version__ = "0.1.0"
