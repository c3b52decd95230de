"""The data layer: sources, validation, splits, silos. It holds private data; the server never imports it."""
