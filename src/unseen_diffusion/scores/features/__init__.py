"""Feature extractors: uint8 images -> one float32 vector per image, which every score reads."""
