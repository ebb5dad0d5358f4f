"""The verdict on the data: what is listed, read in full, compared with itself and with what was published."""
