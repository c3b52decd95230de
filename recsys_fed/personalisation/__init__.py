"""Personalisation inside a silo, for its operator alone: nothing of it is ever released.

"user-only" folds users in from the released model (`models.items`): users of a silo are protected from each other
as well. "silo-trusted" adds a model of items that is fitted to the silo's own users; it is as private between them as
any ordinary recommender.
"""
