"""A small service: a made-up model version in a folder, and the service or its application on it."""

import hashlib

import numpy as np

from recsys_fed.serving._service import RecommendationService
from recsys_fed.serving.api._application import application
from recsys_fed.serving.packed_model import PackedModel, write_packed_model
from recsys_fed.serving.paths import ServicePaths, TokenFile
from recsys_fed.serving.reload import ModelReloader
from recsys_fed.serving.settings import serving_settings
from recsys_fed.serving.store import open_store
from recsys_fed.serving.versions import DIGITS, Versions, point_to

GENRES = ("Drama", "Comedy", "Action", "Horror")


def made_release(*, n_items=60, dim=8, kind="ridge", seed=0, **changes):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_items, dim)).astype(np.float32)
    parts = {
        "version": hashlib.sha256(f"{kind}{n_items}{dim}{seed}".encode()).hexdigest(),
        "item_ids": tuple(f"i{row}" for row in range(n_items)),
        "titles": tuple(f"Title number {row}" for row in range(n_items)),
        "categories": tuple((GENRES[row % 4], GENRES[(row // 4) % 4]) for row in range(n_items)),
        "vectors": vectors,
        "bias": rng.normal(size=n_items).astype(np.float32),
        "weights": rng.uniform(0.2, 1.5, size=n_items).astype(np.float32),
        "gramian": vectors.T.astype(np.float64) @ vectors,
        "kind": kind,
        "unobserved_weight": 0.3,
        "regularization": 1.0,
        "provenance": {"guarantee": "a sentence", "rounds": 3},
    }
    return PackedModel(**(parts | changes))


def add_version(folder, release, *, use=True):
    """Write a version into a service's folder; returns its name."""
    name = release.version[:DIGITS]
    target = folder / "versions" / name
    target.mkdir(parents=True)
    write_packed_model(release, target)
    if use:
        point_to(folder, name)
    return name


def made_service(folder, release=None, *, store="", seed=7, **tables):
    """A service on a folder; it must be closed."""
    place = ServicePaths(folder=folder, store=store)
    key = place.key()
    if not (folder / "current.json").is_file():
        add_version(folder, release or made_release())
    settings = serving_settings(tables)
    return RecommendationService(
        settings,
        open_store(place, lock_seconds=1.0),
        Versions(folder, search=settings.api.search),
        key=key,
        seed=seed,
    )


def made_application(folder, release=None, **tables):
    """The application on a folder, and a bearer header for each scope and for all of them ("all")."""
    service = made_service(folder, release, **tables)
    tokens = TokenFile(folder / "tokens.json")
    scopes = {name: [name] for name in ("recommend", "feedback", "admin")}
    scopes["all"] = ["recommend", "feedback", "admin"]
    headers = {name: {"Authorization": f"Bearer {tokens.create(name, opened)}"} for name, opened in scopes.items()}
    return application(service, tokens, ModelReloader(service, folder, None)), headers
