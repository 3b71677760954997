"""An export of advertising costs as rows of one day each: pure, from lines of cells to frames."""
