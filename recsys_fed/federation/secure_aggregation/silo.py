"""A silo's half of a round: frozen states, and one pure function for each exchange.

    advertise -> Advertised -> share -> Shared -> receive -> Received
    mask -> Masked -> confirm -> Confirmed -> unmask

Each takes the state before and the server's bytes, and returns the state after and the silo's bytes. **A state is
used once**: whoever holds it replaces it before the bytes leave. Using one twice would sign two views, or hide two
vectors under the same masks. States hold secrets, and what later phases do not need is no longer in them; as bytes
(`silo_state`) they stay in the silo's memory. The identity key is an argument and never part of a state.

Up to `Received` nothing depends on private data: a round that ends there costs nothing. From `mask` on the release is
charged, whatever happens afterwards: the bytes are out of the silo's hands, and whether they are unmasked as part
of the sum depends on what other silos reveal, which this silo cannot know for certain, even if it drops out or is
told that the round was given up. A next attempt needs fresh noise and is charged again: with the same noise, the
sums over two sets of survivors would differ by single silos with a share of the noise only.
"""

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation import crypto
from recsys_fed.federation.secure_aggregation.crypto import AgreementKey, RoundSecrets, apply_mask
from recsys_fed.federation.secure_aggregation.encoding import pack, to_words
from recsys_fed.federation.secure_aggregation.envelope import Phase, seal_envelope
from recsys_fed.federation.secure_aggregation.errors import (
    ForgedShareError,
    InconsistentSurvivorsError,
    SubstitutedKeyError,
)
from recsys_fed.federation.secure_aggregation.neighbours import check_spread
from recsys_fed.federation.secure_aggregation.roster import (
    Advertisement,
    Roster,
    check_confirmations,
    check_enough,
    read_confirmations,
    read_roster,
    survivors_from_bytes,
    view_digest,
)
from recsys_fed.federation.secure_aggregation.shares import (
    SharePair,
    read_delivery,
    revealed_to_bytes,
    seal,
    sealed_to_bytes,
    split_secret,
    unseal,
)
from recsys_fed.federation.secure_aggregation.silo_state import Advertised, Confirmed, Masked, Received, Shared
from recsys_fed.federation.secure_aggregation.terms import AcceptedTerms, RoundTerms, check_terms
from recsys_fed.signing import SigningKey


def advertise(terms: RoundTerms, key: SigningKey, accepted: AcceptedTerms) -> tuple[Advertised, bytes]:
    """Draw the secrets of this round and sign their public halves.

    Raises:
        TermsError, NotAdmittedError: this silo does not accept the terms.
    """
    check_terms(terms, accepted, own=key.public_key)
    secrets = crypto.fresh_secrets()
    advertisement = _advertisement(secrets, terms, key.public_key)
    message = seal_envelope(key, terms, Phase.KEYS, advertisement.to_bytes())
    return Advertised(terms=terms, secrets=secrets), message


def share(state: Advertised, key: SigningKey, roster_message: bytes) -> tuple[Shared, bytes]:
    """Check everybody's keys, and give every neighbour its shares of this silo's secrets.

    Raises:
        SubstitutedKeyError: this silo's keys are not among them as it signed them.
        SecureAggregationError: of another kind, for a key that does not hold; or too few silos.
    """
    own, roster = key.public_key, read_roster(roster_message, state.terms)
    if roster.advertisements.get(own) != _advertisement(state.secrets, state.terms, own):
        raise SubstitutedKeyError(
            f"Expected the keys that this silo, {own[:12]}, signed for this attempt in the roster, got others."
        )
    pairs, sealing = _shares(state.secrets, roster, own), crypto.load_key(state.secrets.sealing)
    sealed = {
        peer: seal(pairs[peer], _sealing_key(sealing, roster, own, peer, sends=True), context=roster.digest)
        for peer in roster.ring.neighbours(own)
    }
    message = seal_envelope(key, state.terms, Phase.SHARES, sealed_to_bytes(sealed))
    return Shared(roster=roster, secrets=state.secrets, kept=pairs[own]), message


def receive(state: Shared, key: SigningKey, delivery_message: bytes) -> Received:
    """Open the neighbours' shares. The last step that costs nothing.

    Raises:
        ForgedShareError: a share was altered, swapped, replayed or left out.
        OutOfFieldShareError: a neighbour sealed something else.
        TooFewSurvivorsError: fewer silos sent shares than the threshold.
    """
    own, roster, delivery = key.public_key, state.roster, read_delivery(delivery_message)
    check_enough(delivery.sharers, roster.terms, "sent shares")
    neighbours = roster.ring.neighbours(own) & set(delivery.sharers)
    if own not in delivery.sharers or not roster.advertisements.keys() >= set(delivery.sharers):
        raise ForgedShareError("Expected this silo and others of the roster among those that sent shares.")
    if delivery.sealed.keys() != neighbours:
        raise ForgedShareError(
            f"Expected one sealed pair of each of {len(neighbours)} neighbours that sent shares, got "
            f"{len(delivery.sealed)} of others: the server left some out or added some."
        )
    sealing = crypto.load_key(state.secrets.sealing)
    held = {
        peer: unseal(
            sealed,
            _sealing_key(sealing, roster, own, peer, sends=False),
            context=roster.digest,
            sender=peer,
        )
        for peer, sealed in delivery.sealed.items()
    }
    return Received(roster=roster, secrets=state.secrets, sharers=delivery.sharers, held={**held, own: state.kept})


def mask(state: Received, key: SigningKey, integers: npt.NDArray[np.integer]) -> tuple[Masked, bytes]:
    """Hide this silo's noisy integers of any shape: y = x + own mask + sum of the pairwise masks, modulo 2^b.

    Guarantees:
        - The bytes are indistinguishable from uniform ones to everybody who lacks this silo's self mask, or the
          mask that it has with one of its neighbours; their number is the same for all x.
        - The release must be charged before the bytes leave.

    Raises:
        ConfigurationError: not as many integers as the terms say.
    """
    own, roster, terms = key.public_key, state.roster, state.roster.terms
    if integers.size != terms.entries:
        raise ConfigurationError(f"Expected {terms.entries} integers to mask, got {integers.size}.")
    words = to_words(integers, terms.bits)
    self_key = crypto.self_mask_key(state.secrets.self_mask, roster=roster.digest, silo=own)
    apply_mask(words, self_key, add=True)
    masking = crypto.load_key(state.secrets.masking)
    for peer in sorted(state.held.keys() - {own}):
        public = roster.advertisements[peer].masking
        pair_key = crypto.pair_mask_key(masking, public, roster=roster.digest, own=own, peer=peer)
        # Of two neighbours one adds and one takes away, so that the sum over both has none of it.
        apply_mask(words, pair_key, add=own < peer)
    message = seal_envelope(key, terms, Phase.INPUT, pack(words, terms.bits))
    return Masked(roster=roster, sharers=state.sharers, held=state.held), message


def confirm(state: Masked, key: SigningKey, survivors_message: bytes) -> tuple[Confirmed, bytes]:
    """Sign who survived, as this silo was told.

    Raises:
        TooFewSurvivorsError: fewer than the threshold, or so spread that colluding silos could part them.
        InconsistentSurvivorsError: this silo is not among them, or one that sent no shares is.
    """
    own, roster = key.public_key, state.roster
    survivors = survivors_from_bytes(survivors_message)
    check_enough(survivors, roster.terms, "sent a masked input")
    if own not in survivors or not set(state.sharers) >= set(survivors):
        raise InconsistentSurvivorsError(
            "Expected this silo, which sent its input, and others that sent shares among the survivors."
        )
    check_spread(roster.ring, survivors, colluding=roster.terms.colluding)
    view = view_digest(roster, sharers=state.sharers, survivors=survivors)
    message = seal_envelope(key, roster.terms, Phase.CONFIRMATION, view)
    return Confirmed(roster=roster, survivors=survivors, view=view, held=state.held), message


def unmask(state: Confirmed, key: SigningKey, confirmations_message: bytes) -> bytes:
    """Reveal one share of each neighbour's: of the self mask if it survived, else of the mask key.

    Guarantees: nothing is revealed unless t survivors signed the same view of the round; then no honest silo
    reveals anything for another view. Never both shares of one silo.

    Raises:
        InconsistentSurvivorsError, TooFewSurvivorsError: the signatures do not bear this silo's view out.
    """
    check_confirmations(read_confirmations(confirmations_message), state.roster, state.survivors, state.view)
    body = revealed_to_bytes(state.held, frozenset(state.survivors))
    return seal_envelope(key, state.roster.terms, Phase.UNMASKING, body)


def _advertisement(secrets: RoundSecrets, terms: RoundTerms, own: str) -> Advertisement:
    return Advertisement(
        sealing=crypto.public_key(secrets.sealing),
        masking=crypto.public_key(secrets.masking),
        commitment=crypto.commitment(secrets.self_mask, terms=terms.digest, silo=own),
    )


def _shares(secrets: RoundSecrets, roster: Roster, own: str) -> dict[str, SharePair]:
    """One pair for each neighbour and one for this silo."""
    holders = {silo: roster.points[silo] for silo in (*roster.ring.neighbours(own), own)}
    points, threshold = list(holders.values()), roster.ring.neighbourhood.shares
    self_mask = split_secret(secrets.self_mask, points, threshold=threshold)
    masking = split_secret(secrets.masking, points, threshold=threshold)
    return {silo: SharePair(self_mask=self_mask[p], masking=masking[p]) for silo, p in holders.items()}


def _sealing_key(sealing: AgreementKey, roster: Roster, own: str, peer: str, *, sends: bool) -> bytes:
    sender, receiver = (own, peer) if sends else (peer, own)
    public = roster.advertisements[peer].sealing
    return crypto.sealing_key(sealing, public, roster=roster.digest, sender=sender, receiver=receiver, peer=peer)
