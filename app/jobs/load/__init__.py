"""Loads the collector's spool: `segments` reads it in chunks, `delivery` stores them, `follow` does so as it fills."""
