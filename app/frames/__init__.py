"""Pure transformations: frames in, frames out; no clock, no I/O, no Python per row where there are many rows."""
