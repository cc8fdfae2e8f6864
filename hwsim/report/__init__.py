"""One report object, several renderings."""
