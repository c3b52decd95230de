"""A deployed silo: opened from its own silo.toml, with noise of the operating system and a real ledger.

The path of silo.toml comes from the SuperNode's own command line (--node-config); a server cannot change it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache, partial
from pathlib import Path

from client.state import Silo
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.certificates.certificate import Certificate
from recsys_fed.certificates.earlier import proven_releases
from recsys_fed.config import FederationConfig
from recsys_fed.data.readers.blocks import check_place
from recsys_fed.data.readers.users import groups_rule, weights_rule
from recsys_fed.errors import DataFormatError, ProtocolError
from recsys_fed.federation.admission import read_roster
from recsys_fed.federation.messages import Request
from recsys_fed.federation.noise_split import masking_of, resolve_masking
from recsys_fed.federation.plan import derive_plan
from recsys_fed.federation.release import Randomness, SiloUsers
from recsys_fed.federation.secure_aggregation.terms import AcceptedTerms
from recsys_fed.ledger.agreed_schedule import AgreedSchedule
from recsys_fed.ledger.budget import Allowance
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.models.device import resolve_device
from recsys_fed.models.histories import Signal
from recsys_fed.privacy.guarantee import check_delta
from recsys_fed.privacy.noise import SystemNoise
from recsys_fed.signing import SigningKey
from recsys_fed.silo.earlier import earlier_of, note_earlier
from recsys_fed.silo.interactions import SiloData
from recsys_fed.silo.on_disk import StoredSiloData, open_silo_data
from recsys_fed.silo.opt_out import OptOuts, Participants, stamp_of_lists
from recsys_fed.silo.secret import Pseudonyms, SiloSecret, passphrase
from recsys_fed.silo.settings import (
    NOTICE,
    DataSettings,
    SiloSettings,
    check_ledger,
    handed_out_folder,
    moment,
    read_silo_settings,
    settings_file,
)
from recsys_fed.silo.state import StateFolder
from recsys_fed.silo.told import numbers_of_users
from recsys_fed.trainers.registry import signals_read
from recsys_fed.user_digests import Stamp, stamp_of


@dataclass(frozen=True, kw_only=True, eq=False)
class DeployedSilo(Silo):
    """A silo as its operator has set it up.

    Attributes:
        settings: silo.toml.
        secret: keys of pseudonyms and of what is sealed.
        lists: of users who take no part (`silo.opt_out`) and the notice that was taken in, as they were when this
            was opened.
    """

    settings: SiloSettings
    secret: SiloSecret
    lists: tuple[Stamp, ...] = ()
    _held: list[tuple[DataSettings, SiloData | StoredSiloData]] = field(default_factory=list, repr=False)

    @property
    def allowance(self) -> Allowance:
        """The agreed epsilon for one training, and as many trainings as silo.toml says."""
        return Allowance(epsilon=self.config.epsilon, trainings=self.settings.trainings, days=self.settings.per_days)

    @property
    def federation(self) -> str:
        """As silo.toml has it."""
        return self.settings.federation

    @cached_property
    def schedule(self) -> AgreedSchedule | None:
        """The trainings that silo.toml agrees to for years."""
        return schedule_of(self.settings)

    @cached_property
    def data(self) -> SiloData | StoredSiloData:
        """What [data] of silo.toml says, read when it is first asked for; a failure is tried again."""
        return self._read(self.settings.data)

    @property
    def outdated(self) -> bool:
        """Whether users have opted out, or come back, or the operator has agreed to something, since this was opened.

        Then neither its data nor its terms are to be used.
        """
        return _lists_of(self.settings) != self.lists

    def prepare(self) -> None:
        """Read the data and derive the plan, which a first training would do; raises what reading them raises."""
        derive_plan(self.config, self.catalogue)
        _ = self._all_users

    def build_on(self, certificates: Sequence[bytes], *, run: str) -> None:
        """Check and note on which earlier trainings a run builds: as many as were agreed to, each one proven.

        One that this silo took part in is proven by its own ledger, whose key signed a certificate at an entry that
        is still there; any by another silo's certificate, under the key of the roster that was taken in.

        Raises:
            ProtocolError: too many, one that nothing proves, or others than the run began with.
        """
        most = self.config.most_earlier_trainings
        if len(certificates) > most:
            raise ProtocolError(
                f"Expected a training that builds on at most {most} earlier ones, as was agreed, got "
                f"{len(certificates)}. New terms allow it: most-earlier-trainings."
            )
        note_earlier(self.settings, run, proven_releases(certificates, run=run, trusts=self._knows))

    def check_earlier(self, digests: Sequence[str], *, run: str) -> None:
        """Refuse to sign that a run has built on other releases than were proven; raises ProtocolError."""
        if list(digests) != [one.tables for one in earlier_of(self.settings, run)]:
            raise ProtocolError("Expected the earlier releases that this training began with, got others.")

    def config_of(self, run: str) -> FederationConfig:
        """As agreed, with as many earlier trainings as were proven for the run."""
        return replace(self.config, earlier_trainings=len(earlier_of(self.settings, run)))

    def _knows(self, certificate: Certificate) -> bool:
        """Whether this silo's ledger, or its roster, has the key and, of its own, the entry."""
        if certificate.terms.silo != self.name:
            return self._roster.get(certificate.terms.silo) == certificate.terms.public_key
        head = certificate.head
        if head.number > self.ledger.head().number or self.ledger.entry(head.number).hash != head.hash:
            raise ProtocolError(f"This silo's ledger does not prove the certificate of {certificate.run!r:.80}.")
        return self.ledger.terms(until=head.number).public_key == certificate.terms.public_key

    @cached_property
    def _roster(self) -> dict[str, str]:
        """The silos whom its operator has taken in; none where no roster was."""
        path = Path(self.settings.roster)
        return read_roster(path) if path.is_file() else {}

    def check_request(self, request: Request, *, run: str) -> None:
        """As every silo; besides, there must be something to read, which says nothing of what is in it.

        Raises:
            ProtocolError: see `federation.plan.check_request`.
            DataNotFoundError: the file, folder or database of silo.toml is not there; nothing is charged.
        """
        super().check_request(request, run=run)
        if "data" not in self.__dict__:
            check_place(self.settings.data.reading())

    def users(self, run: str) -> SiloUsers:
        """The users, read under silo.toml: with all of their interactions, or those that are new to the run."""
        if self.settings.data.train_on == "all":
            return self._all_users
        # Held for as long as it is used, as it may be files on disk: the rounds of a run read the same rows.
        wanted = self._new_to(run)
        if not self._held or self._held[0][0] != wanted:
            self._held[:] = [(wanted, self._read(wanted))]
        return self._users_of(self._held[0][1])

    @cached_property
    def _all_users(self) -> SiloUsers:
        return self._users_of(self.data)

    def _users_of(self, data: SiloData | StoredSiloData) -> SiloUsers:
        numbers = partial(numbers_of_users, self.settings, users=data.users, pseudonyms=Pseudonyms(self.secret))
        return SiloUsers(
            histories=data.histories(resolve_device(self.settings.device)),
            test=data.test,
            weights=numbers(weights_rule(self.config.user_weights)),
            groups=numbers(groups_rule(self.config.metric_groups)),
        )

    def _new_to(self, run: str) -> DataSettings:
        """Rows from the beginning of the newest training that it builds on, and this silo took part in, to its own.

        Both are in the ledger: every round of a run, after a restart too, has the same rows, and no row falls between
        two trainings. A run that builds on none has all rows until it began.
        """
        data, own = self.settings.data, self._begun(run)
        before = [begun for earlier in earlier_of(self.settings, run) if (begun := self._begun(earlier.run))]
        since = max((data.since, *before[-1:]), key=_instant)
        until = min((one for one in (data.until, own) if one), key=_instant, default="")
        return replace(data, since=since, until=until)

    def _begun(self, run: str) -> str:
        """When this silo first charged a release of a run; "" if it never did."""
        entries = self.ledger.releases_of(self.run_in_ledger(run))
        return entries[0].time if entries else ""

    def _read(self, data: DataSettings) -> SiloData | StoredSiloData:
        # No trainer reads more than it says; times are kept for the silo's own model.
        kept = frozenset[Signal]({"time"} if self.settings.attributes.context else ())
        users = Participants.of_silo(self.settings, self.secret)
        return open_silo_data(data, self.catalogue, users, reads=signals_read(self.config) | kept)

    @property
    def noise_source(self) -> str:
        """The operating system; a seed only where silo.toml and the ledger say "simulated"."""
        return super().noise_source if self.settings.simulated else SystemNoise.name

    def randomness(self, release: int) -> Randomness:
        """Streams from the operating system; from the seed only where silo.toml and the ledger say "simulated"."""
        if self.settings.simulated:
            return super().randomness(release)
        return Randomness(noise=SystemNoise(), sampling=SystemNoise())

    def check_model(self, model: bytes) -> None:
        """Refuse what is no model of this catalogue; raises ProtocolError."""
        try:
            self.state.check(model, self.catalogue)
        except DataFormatError as error:
            raise ProtocolError(str(error)) from error

    def keep(self, model: bytes) -> None:
        """Take in the released model: fold in all users and seal them; see `StateFolder`."""
        if self.settings.data.train_on == "new":
            # All that there is by now, not as it was at the start.
            self.__dict__.pop("data", None)
        self.state.keep(model, self.data.parts())
        if self.outdated:
            # Between the reading and now.
            self.state.remove_users(OptOuts(self.settings, Pseudonyms(self.secret)).pseudonyms())

    def keep_waiting(self) -> None:
        """Take in the model that could not be taken in when its training ended; raises what `keep` raises."""
        waiting = self.state.waiting()
        if waiting is not None:
            self.keep(waiting)

    @property
    def state(self) -> StateFolder:
        """What the silo keeps of finished trainings."""
        return StateFolder(Path(self.settings.state), self.secret)

    def _server_has_features(self) -> bool:
        """The server of a deployed federation has the same catalogue file."""
        return True


def open_deployed_silo(path: Path) -> DeployedSilo:
    """Open a silo by its silo.toml (or the folder of it); once a process, however the path is written.

    It is opened anew when somebody has opted out since. Its data is not read: see `DeployedSilo.data`.

    Raises:
        RecsysFedError: settings, keys, ledger or catalogue are not as they should be; the text may hold paths.
    """
    silo = _open(settings_file(path))
    if silo.outdated:
        forget_silos()
        silo = _open(settings_file(path))
    return silo


@lru_cache(maxsize=4)
def _open(path: Path) -> DeployedSilo:
    settings = read_silo_settings(path)
    # Before anything is read: who opts out meanwhile makes it outdated.
    lists, words = _lists_of(settings), passphrase()
    key = SigningKey.load(Path(settings.ledger_key), passphrase=words)
    secret = SiloSecret.load(Path(settings.secret_key), passphrase=words)
    ledger = Ledger.open(settings.ledger, key=key, witness=Path(settings.witness) if settings.witness else None)
    check_ledger(settings, ledger.terms())
    check_delta(settings.agreed.delta, n_users=settings.agreed.declared_users)
    settings.check_rules(settings.agreed)
    agreed = replace(settings.agreed, device=settings.device, threads=settings.threads)
    config = resolve_masking(replace(agreed, seed=max(settings.simulated_seed, 0)), simulated=settings.simulated)
    silo = DeployedSilo(
        name=settings.name,
        index=settings.simulated_index,
        config=config,
        catalogue=Catalogue.load(settings.catalogue),
        ledger=ledger,
        key=key,
        accepted=_accepted(settings, config),
        settings=settings,
        secret=secret,
        lists=lists,
    )
    # No connection is held: a fork must not share one.
    ledger.close()
    return silo


def _instant(text: str) -> int:
    """A time to compare; none is before all others."""
    return moment(text) or 0


def schedule_of(settings: SiloSettings) -> AgreedSchedule | None:
    """What [schedule] of silo.toml agrees to; raises ConfigurationError for values that are not allowed."""
    asked = settings.schedule
    if asked is None:
        return None
    since = moment(asked.since)
    return AgreedSchedule(
        trainings=asked.trainings,
        spacing_days=asked.spacing_days,
        epsilon=asked.epsilon,
        period_days=asked.period_days,
        since=None if since is None else datetime.fromtimestamp(since / 1e9, UTC),
    )


def _lists_of(settings: SiloSettings) -> tuple[Stamp, ...]:
    # Files are replaced whole, the notice after all that it is about.
    return *stamp_of_lists(settings), stamp_of(handed_out_folder(settings) / NOTICE)


def _accepted(settings: SiloSettings, config: FederationConfig) -> AcceptedTerms | None:
    """With whom this silo takes part in secure aggregation: the roster that its own operator has taken in."""
    masking = masking_of(config)
    if masking is None:
        return None
    return AcceptedTerms(
        admitted=frozenset(read_roster(Path(settings.roster)).values()),
        least_contributors=masking.contributors,
        least_colluding=masking.colluding,
    )


def forget_silos() -> None:
    """Let the next opening read silo.toml and the data anew."""
    _open.cache_clear()
