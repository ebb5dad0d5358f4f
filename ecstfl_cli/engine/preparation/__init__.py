"""`ecstfl prepare`: data sets, foreign lists and bare videos to path files, face crops and packed data."""
