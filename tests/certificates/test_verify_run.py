"""verify-run: good runs hold and get the right figure, and each single tampering is found and named."""

import json
import math
import shutil
from dataclasses import replace

import pytest
from runs_by_hand import made_run, made_silo, release_of

from recsys_fed.certificates.certificate import read_certificate, sign_certificate
from recsys_fed.certificates.run import verify_run
from recsys_fed.errors import DataNotFoundError
from recsys_fed.privacy.accounting import epsilon_spent
from recsys_fed.privacy.events import PrivacyEvent

NAMES = ("north", "south", "west")


def verified(folder):
    return verify_run(
        folder / "certificates", events=folder / "events.jsonl", model=folder / "item_embeddings.safetensors"
    )


def federation(folder, *, k=1):
    folder.mkdir()
    return [made_silo(folder, name, k=k) for name in NAMES]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A run in which west adds less noise than the others; north took part in an earlier run."""
    folder = tmp_path_factory.mktemp("good")
    silos = federation(folder / "ledgers")
    made_run(folder / "earlier", silos[:1], {"north": [release_of(1.5)]}, run="6")
    events = {name: [release_of(3.0), release_of(2.0 if name == "west" else 4.0, round=1)] for name in NAMES}
    made_run(folder / "run", silos, events)
    return folder, silos


@pytest.fixture
def run(good, tmp_path):
    """A copy of its files to be tampered with."""
    shutil.copytree(good[0] / "run", tmp_path / "run")
    return tmp_path / "run"


def epsilon(*noises):
    return epsilon_spent([PrivacyEvent(noise_multiplier=noise) for noise in noises], delta=1e-6)


def test_a_good_run_costs_what_its_worst_silo_spent(run):
    found = verified(run)
    assert found.problems == ()
    assert found.epsilon_of_run == pytest.approx(epsilon(3.0, 2.0), rel=1e-9)
    # North's earlier run is in its statement, and in nobody's figure of this run.
    assert found.epsilon_in_all == pytest.approx(epsilon(3.0, 4.0, 1.5), rel=1e-9)
    assert found.epsilon_in_all > found.epsilon_of_run
    assert "this run released" in found.sentence_of_run()
    assert f"epsilon = {found.epsilon_of_run:g}" in found.sentence_of_run()


@pytest.mark.parametrize("k", [2, 3])
def test_a_user_in_k_silos_pays_for_the_k_most_expensive(tmp_path, k):
    silos = federation(tmp_path / "ledgers", k=k)
    noises = {"north": 3.0, "south": 5.0, "west": 4.0}
    made_run(tmp_path / "run", silos, {name: [release_of(noise)] for name, noise in noises.items()})
    found = verified(tmp_path / "run")
    assert found.problems == ()
    worst = sorted(noises.values())[:k]
    assert found.epsilon_of_run == pytest.approx(epsilon(*worst), rel=1e-6)
    assert f"up to {k} silos" in found.sentence_of_run()


def test_shares_of_the_noise_are_said_to_protect_the_sum_only(run, tmp_path):
    silos = federation(tmp_path / "ledgers")
    made_run(tmp_path / "central", silos, {name: [release_of(3.0, noise_share=1 / 3)] for name in NAMES})
    assert verified(tmp_path / "central").only_the_sum
    assert not verified(run).only_the_sum


def masked(share=1 / 2, **changes):
    return release_of(3.0, noise_share=share, **({"threshold": 3, "colluding": 1} | changes))


def masked_run(folder, *, k=1, **events):
    """A run of three silos; the events of each by name, by default one masked release."""
    silos = federation(folder / "ledgers", k=k)
    return made_run(folder / "run", silos, {name: events.get(name, [masked()]) for name in NAMES})


def test_masked_releases_are_said_to_protect_against_the_server(tmp_path):
    found = verified(masked_run(tmp_path))
    assert found.problems == ()
    assert not found.only_the_sum
    assert found.masked == (3, 1)
    assert found.epsilon_of_run == pytest.approx(epsilon(3.0), rel=1e-9)


@pytest.mark.parametrize(
    ("k", "events", "says"),
    [
        (1, {"south": [masked(share=0.4)]}, "south.json: in round 0 its share of the noise, 0.4, is too small"),
        (2, {}, "north.json: in round 0 its share of the noise, 0.5, is too small"),
        (1, {"west": []}, "masked releases of 2 silos in round 0, its sum needs 3"),
    ],
)
def test_masks_with_too_little_noise_or_too_few_silos_do_not_hold(k, events, says, tmp_path):
    found = verified(masked_run(tmp_path, k=k, **events))
    assert any(says in problem for problem in found.problems), found.problems


def test_a_user_in_k_silos_needs_the_share_of_k(tmp_path):
    whole = [masked(share=1.0)]
    assert verified(masked_run(tmp_path, k=2, north=whole, south=whole, west=whole)).problems == ()


def test_a_silo_that_released_nothing_counts_for_nothing(tmp_path):
    silos = federation(tmp_path / "ledgers")
    made_run(tmp_path / "run", silos, {"north": [release_of(3.0)], "south": [], "west": []})
    found = verified(tmp_path / "run")
    assert found.problems == ()
    assert found.epsilon_of_run == pytest.approx(epsilon(3.0), rel=1e-9)


def certificate_of(run, name):
    return next((run / "certificates").glob(f"*-{name}.json"))


def edited_line(run, number, **changes):
    path = run / "events.jsonl"
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | changes)
    path.write_text("".join(line + "\n" for line in lines))


def swap(run, _):
    first, second = certificate_of(run, "north"), certificate_of(run, "south")
    second.write_bytes(first.read_bytes())


def flip(run, _):
    path = certificate_of(run, "south")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"declared_users":1000,', b'"declared_users":1001,'))
    assert path.read_bytes() != content


def cut_line(run, _):
    path = run / "events.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def another_run(run, good):
    content = (good / "earlier" / "certificates" / "0000-north.json").read_bytes()
    certificate_of(run, "north").write_bytes(content)


def twice(run, _):
    path = run / "events.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[0])


TAMPERINGS = {
    "swapped certificate": (swap, ["another certificate has the same silo", "south: 2 releases"]),
    "edited certificate": (flip, ["0001-south.json: The certificate of south is not signed"]),
    "missing certificate": (lambda run, _: certificate_of(run, "west").unlink(), ["west: 2 releases in the events"]),
    "certificate of another run": (another_run, ["its run is 6, others say 7", "it is about another model|round 0"]),
    "edited noise": (
        lambda run, _: edited_line(run, 0, noise_multiplier=30.0),
        ["north: the events have a release of round 0", "north: it signed a release of round 0"],
    ),
    "edited payload": (lambda run, _: edited_line(run, 3, payload="0" * 64), ["that it did not sign"]),
    "edited silo": (lambda run, _: edited_line(run, 0, silo="south"), ["south: the events", "north: it signed"]),
    "unknown silo": (lambda run, _: edited_line(run, 0, silo="east"), ["east: 1 releases in the events"]),
    "nonsense": (lambda run, _: edited_line(run, 1, steps="many"), ["line 2 of the events is no release"]),
    "removed line": (cut_line, ["west: it signed a release of round 1"]),
    "repeated line": (twice, ["north: the events have a release of round 0"]),
    "another model": (
        lambda run, _: (run / "item_embeddings.safetensors").write_bytes(b"another"),
        [f"{name}.json: it is about another model" for name in NAMES],
    ),
}


@pytest.mark.parametrize(("tamper", "named"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_each_tampering_is_found_and_named(run, good, tamper, named):
    tamper(run, good[0])
    found = verified(run)
    assert not found.holds
    for part in named:
        assert any(option in problem for problem in found.problems for option in part.split("|")), found.problems


def resigned(run, silos, name, **changes):
    """What a silo could say with its own key that does not follow from its events."""
    silo = next(silo for silo in silos if silo.name == name)
    path = certificate_of(run, name)
    certificate = read_certificate(path.read_bytes())
    changes = {key: change(certificate) for key, change in changes.items()}
    path.write_bytes(sign_certificate(replace(certificate, **changes), silo.key))


FALSE_STATEMENTS = {
    "less epsilon by PLD": ({"epsilon_of_run": lambda c: {**c.epsilon_of_run, "pld": 0.5}}, "0.5000"),
    "no RDP": ({"epsilon_of_run": lambda c: {n: e for n, e in c.epsilon_of_run.items() if n != "rdp"}}, "by ['pld'"),
    "less in all than in the run": ({"epsilon_in_all": lambda c: dict.fromkeys(c.epsilon_in_all, 0.1)}, "ever spent"),
    "beyond its limit": ({"terms": lambda c: c.terms.with_limit(0.5)}, "beyond its silo's own limit"),
    "a release after the head": ({"head": lambda c: replace(c.head, number=1)}, "after its head"),
    "releases out of order": ({"releases": lambda c: c.releases[::-1]}, "not entries in order"),
    "another head": ({"head": lambda c: replace(c.head, hash="0" * 64)}, "its head is another entry"),
    "another k": (
        {"terms": lambda c: replace(c.terms, guarantee=replace(c.terms.guarantee, max_silos_per_user=2))},
        "number of silos a user may be in is 2",
    ),
    "another delta": (
        {"terms": lambda c: replace(c.terms, guarantee=replace(c.terms.guarantee, delta=1e-5))}, "delta is 1e-05"
    ),
    "the ledger of another": ({"genesis": lambda c: "f" * 64}, None),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "named"), FALSE_STATEMENTS.values(), ids=FALSE_STATEMENTS)
def test_a_false_statement_is_found_though_its_signature_holds(run, good, changes, named):
    resigned(run, good[1], "south", **changes)
    if named is None:
        # Nobody but the ledger itself knows its genesis; two silos with the same one are refused.
        resigned(run, good[1], "north", **changes)
        named = "another certificate has the same ledger"
    found = verified(run)
    assert not found.holds
    assert any(named in problem and "south" in problem for problem in found.problems), found.problems


def test_two_silos_with_one_key_are_refused(run, good):
    south = next(silo for silo in good[1] if silo.name == "south")
    path = certificate_of(run, "west")
    certificate = read_certificate(path.read_bytes())
    same_key = replace(certificate, terms=replace(certificate.terms, public_key=south.key.public_key))
    path.write_bytes(sign_certificate(same_key, south.key))
    assert any("the same key" in problem for problem in verified(run).problems)


def test_without_any_certificate_there_is_no_guarantee(run):
    for path in (run / "certificates").iterdir():
        path.write_bytes(b"{}")
    found = verified(run)
    assert not found.holds
    assert math.isinf(found.epsilon_of_run)
    assert "no guarantee" in found.sentence_of_run()


@pytest.mark.parametrize("name", ["certificates", "events.jsonl", "item_embeddings.safetensors"])
def test_an_unfinished_run_is_said_to_be_one(run, name):
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataNotFoundError, match=name):
        verified(run)
