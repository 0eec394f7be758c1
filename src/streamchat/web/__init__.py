"""Browser files, served as they are: no build step. The package holds no Python code."""
