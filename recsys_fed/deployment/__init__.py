"""A real federation: provisioning, and the Flower processes of its operator and of each silo's operator."""
