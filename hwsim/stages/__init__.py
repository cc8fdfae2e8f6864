"""One typed function per verb: documents in, documents out."""
