"""Reports: numbers in, one static HTML page out."""
