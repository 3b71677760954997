"""The HTTP collector: receives batches of call records and answers when they are on disk.

It imports neither Polars nor the engine, so its process uses about 50 MB.
"""
