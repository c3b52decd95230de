"""Secure aggregation: the server learns the sum of the silos' integers modulo 2^b, and nothing else about them.

Bonawitz et al. 2017 (eprint 2017/281) with the round of signatures that makes it hold against a server that
does not keep to the protocol, on a ring of neighbours (Bell et al. 2020, eprint 2020/704) above 32 silos.
Five exchanges, each one pure function of a silo (`silo`) and one of the server (`server`); all of them take
and return bytes, which any transport may carry:

    advertise   ->  collect_keys           two fresh public keys, signed by the silo's identity key
    share       ->  collect_shares         Shamir shares of the mask key and of the self mask, sealed for neighbours
    mask        ->  collect_inputs         integers + self mask + pairwise masks, modulo 2^b      (charged from here)
    confirm     ->  collect_confirmations  a signature on who survived
    unmask      ->  unmasked_sum           of each neighbour one share: self mask if it survived, else mask key

A round that goes wrong ends in one of `errors`; nothing is unmasked then. What it assumes, promises and costs is
written in docs/secure-aggregation.md.
"""
