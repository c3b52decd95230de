"""The public item table: the same in every silo and on the server."""

from recsys_fed.catalogue.features import public_features
from recsys_fed.catalogue.items import Catalogue

__all__ = ["Catalogue", "public_features"]
