"""What else can run a layer: one module for each runtime."""
