"""Should we federate? What each silo gets alone, from the private global model, from both, and without privacy."""
