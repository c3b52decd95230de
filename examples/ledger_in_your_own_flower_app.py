"""The ledger in your own Flower app: a release is charged before it is computed, and refused beyond the budget."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from recsys_fed import Guarantee, Ledger
from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.integer_mechanism import IntegerMechanism, add_noise
from recsys_fed.privacy.noise import SystemNoise
from recsys_fed.signing import SigningKey

MECHANISM = IntegerMechanism(noise_multiplier=4.0, l2_clip_norm=1.0, grid_step=2.0**-12, entries=3)
client, server = ClientApp(), ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Answer with a noisy sum over users, each clipped to length 1; without a charge there is no answer."""
    folder, number = Path(str(context.run_config["folder"])), int(message.metadata.group_id)
    event = ReleaseEvent(
        noise_multiplier=4.0, l2_clip_norm=1.0, released="gradient", round=number, stage="training",
        noise_source=SystemNoise.name, trainer="my own",
    )  # fmt: skip
    ledger = Ledger.open(str(folder / "ledger.sqlite"), key=SigningKey.load(folder / "silo.key"))
    ledger.charge(event, run="mine", request=f"{number:064x}", code_version="mine 1.0", keep=False)
    clipped_sum = np.array([0.3, -0.2, 0.5])  # of this silo's users
    answer = MECHANISM.grid_step * add_noise(clipped_sum, mechanism=MECHANISM, noise=SystemNoise())
    return Message(RecordDict({"gradient": ArrayRecord([answer])}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Ask until the silo's budget is spent."""
    for number in range(20):
        (node,) = grid.get_node_ids()
        (reply,) = grid.send_and_receive([Message(RecordDict(), node, "train", group_id=str(number))])
        if reply.has_error():
            print(reply.error.reason)
            break
        print(number, reply.content["gradient"].to_numpy_ndarrays()[0].round(2))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        key = SigningKey.generate()
        key.save(Path(folder) / "silo.key")
        guarantee = Guarantee(epsilon=2.0, delta=1e-6)
        terms = LedgerTerms(silo="mine", public_key=key.public_key, guarantee=guarantee, declared_users=1_000)
        Ledger.create(str(Path(folder) / "ledger.sqlite"), key=key, terms=terms).close()
        run_in_process(server, client, run_config={"folder": folder}, n_silos=1)
