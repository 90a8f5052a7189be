"""Reports: what the records of a sweep say, as pages, pictures and tables."""
