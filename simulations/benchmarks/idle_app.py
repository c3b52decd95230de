"""A ServerApp that sends one table to every silo each round, and a ClientApp that sends it back untouched.

What is left is the engine. The same file runs on both engines: the ServerApp writes the seconds of each round
to the file that the run config names.
"""

import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

SILO_TIMEOUT = 120.0

server_app = ServerApp()
client_app = ClientApp()


@client_app.train()
def idle(message: Message, context: Context) -> Message:
    """Send the table back."""
    return Message(message.content, reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one round that does not count, as processes start in it, and then those that do."""
    silos, rounds, table_bytes = (int(context.run_config[key]) for key in ("silos", "rounds", "table-bytes"))
    nodes = _nodes(grid, silos)
    table = np.zeros((table_bytes // 4 // 64, 64), dtype=np.float32)
    seconds = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        _round(grid, nodes, table=table, number=number)
        seconds.append(time.perf_counter() - start)
    Path(str(context.run_config["output"])).write_text(json.dumps(seconds[1:]), encoding="utf-8")


def _nodes(grid: Grid, silos: int) -> list[int]:
    deadline = time.monotonic() + SILO_TIMEOUT
    while len(nodes := sorted(grid.get_node_ids())) < silos:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Expected {silos} silos, got {len(nodes)}.")
        time.sleep(0.05)
    return nodes


def _round(grid: Grid, nodes: list[int], *, table: npt.NDArray[np.float32], number: int) -> None:
    # One record for all messages, as the real ServerApp does.
    records = RecordDict({"table": ArrayRecord({"table": Array(table)})})
    messages = [Message(records, node, "train", group_id=str(number)) for node in nodes]
    replies = list(grid.send_and_receive(messages, timeout=SILO_TIMEOUT))
    if len(replies) != len(nodes) or any(reply.has_error() for reply in replies):
        raise RuntimeError(f"Expected {len(nodes)} replies without errors, got {len(replies)}.")
