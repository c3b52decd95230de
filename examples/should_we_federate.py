"""Should we federate? What each silo gets alone, with all, both, and without privacy."""

from recsys_fed import Dataset, Federation

federation = Federation(Dataset.open("generated:users=400,items=120,interactions=30"), silos=4)
record = federation.compare("spectral", epsilons=(2.0, 8.0), seeds=1)

for sentence in record["sentences"]:
    print(sentence)
