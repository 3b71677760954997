"""One file a job, three paragraphs each: read, transform, write."""
