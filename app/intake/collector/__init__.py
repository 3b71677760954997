"""The HTTP collector: takes call records in batches, and answers when they are on disk. No engine, no frames in it."""
