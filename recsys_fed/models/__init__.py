"""Item embeddings, which are shared, and user vectors, which never leave a silo."""
