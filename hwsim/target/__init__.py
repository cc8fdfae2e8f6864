"""Device descriptors: schema, look-up, validation with line and column."""
