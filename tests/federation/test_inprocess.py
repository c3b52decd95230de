"""The in-process engine keeps the contract of Flower's Grid."""

import threading
from contextlib import nullcontext

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.task_identity import TaskIdentity

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.inprocess import run_in_process


def client() -> ClientApp:
    """A silo that says who it is and how often it was asked; number 2 fails."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        asked = context.state.config_records.get("asked", ConfigRecord({"times": 0}))["times"] + 1
        context.state["asked"] = ConfigRecord({"times": asked})
        if context.node_config["partition-id"] == 2 and context.run_config.get("fails"):
            raise RuntimeError("silo 2 is broken")
        who = {"silo": context.node_config["partition-id"], "of": context.node_config["num-partitions"]}
        return Message(RecordDict({"me": ConfigRecord(who | {"times": asked})}), reply_to=message)

    return app


def run(main, *, n_silos=3, run_config=None, **options):
    """What `main` returns when it runs as a ServerApp."""
    results, app = [], ServerApp()
    app.main()(lambda grid, context: results.append(main(grid, context)))
    run_in_process(app, client(), run_config=run_config or {}, n_silos=n_silos, **options)
    return results[0]


def ask(grid, nodes):
    return [Message(RecordDict(), node, "train", group_id="1") for node in nodes]


def test_every_silo_answers_once_and_in_order():
    def main(grid, _context):
        return grid.get_node_ids(), grid.send_and_receive(ask(grid, grid.get_node_ids()))

    nodes, replies = run(main)
    assert len(set(nodes)) == 3
    assert [reply.metadata.src_node_id for reply in replies] == nodes
    records = [reply.content["me"] for reply in replies]
    assert [(r["silo"], r["of"]) for r in records] == [(0, 3), (1, 3), (2, 3)]


def test_replies_wait_until_they_are_pulled_and_are_given_once():
    def main(grid, _context):
        ids = list(grid.push_messages(ask(grid, grid.get_node_ids())))
        return ids, [grid.pull_messages(["unknown"]), grid.pull_messages(ids[:1]), grid.pull_messages(ids)]

    ids, (nothing, first, others) = run(main)
    assert len(set(ids)) == 3
    assert nothing == []
    assert [m.metadata.reply_to_message_id for m in first] == ids[:1]
    assert [m.metadata.reply_to_message_id for m in others] == ids[1:]


def test_messages_can_be_created_by_the_grid():
    def main(grid, _context):
        message = grid.create_message(RecordDict(), "train", grid.get_node_ids()[1], "7")
        return message, grid.send_and_receive([message]), grid.run

    message, (reply,), its_run = run(main)
    assert reply.content["me"]["silo"] == 1
    assert (reply.metadata.group_id, reply.metadata.message_type) == ("7", "train")
    assert message.metadata.run_id == its_run.run_id


def test_a_silos_state_lives_as_long_as_the_run():
    def main(grid, _context):
        return [grid.send_and_receive(ask(grid, grid.get_node_ids()[:2])) for _ in range(3)]

    times = [[reply.content["me"]["times"] for reply in replies] for replies in run(main)]
    assert times == [[1, 1], [2, 2], [3, 3]]
    assert [[r.content["me"]["times"] for r in replies] for replies in run(main)] == times


@pytest.mark.parametrize("parallel_silos", [1, 3])
def test_a_failing_silo_is_an_error_reply(parallel_silos):
    def main(grid, _context):
        return grid.send_and_receive(ask(grid, grid.get_node_ids()))

    replies = run(main, run_config={"fails": True}, parallel_silos=parallel_silos)
    assert [reply.has_error() for reply in replies] == [False, False, True]
    assert replies[2].error.reason == "RuntimeError: silo 2 is broken"


def test_every_reply_is_announced():
    seen = []

    def main(grid, _context):
        return grid.send_and_receive(ask(grid, grid.get_node_ids()))

    replies = run(main, run_config={"fails": True}, on_reply=seen.append)
    assert seen == replies


def test_silos_in_threads_run_at_once():
    """Each silo waits for the others: in turn, none would ever end."""
    together = threading.Barrier(3, timeout=30)
    app = ClientApp()

    @app.train()
    def train(message, _context):
        together.wait()
        return Message(RecordDict(), reply_to=message)

    replies, server = [], ServerApp()
    server.main()(lambda grid, _: replies.extend(grid.send_and_receive(ask(grid, grid.get_node_ids()))))
    run_in_process(server, app, run_config={}, n_silos=3, parallel_silos=3)
    assert [reply.has_error() for reply in replies] == [False] * 3


@pytest.mark.parametrize("fails", [False, True])
def test_the_identity_of_before_is_restored(fails, monkeypatch):
    names = ("_task_id", "_run_id", "_node_id")
    for number, name in enumerate(names, start=70):
        monkeypatch.setattr(TaskIdentity, name, number)

    def main(_grid, _context):
        assert TaskIdentity._run_id != 71
        if fails:
            raise RuntimeError("the server is broken")

    with pytest.raises(RuntimeError, match="the server is broken") if fails else nullcontext():
        run(main)
    assert [getattr(TaskIdentity, name) for name in names] == [70, 71, 72]


def test_the_servers_state_is_returned():
    server = ServerApp()

    @server.main()
    def main(_grid, context):
        context.state["result"] = ConfigRecord({"seed": context.run_config["seed"]})

    context = run_in_process(server, client(), run_config={"seed": 4}, n_silos=1)
    assert context.state["result"]["seed"] == 4


@pytest.mark.parametrize("wrong", [{"n_silos": 0}, {"parallel_silos": 0}])
def test_numbers_of_silos_are_checked(wrong):
    name = next(iter(wrong))
    with pytest.raises(ConfigurationError, match=name):
        run(lambda _grid, _context: None, **wrong)
