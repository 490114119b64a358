"""The faults. Each makes one, lets it last, ends it, and returns when whoever is to get over it can: what was killed runs
again, what stood still goes on. The victims are always gateway-1 and router-1; the others live through it.
"""

from collections.abc import Callable

import kafka
from process import NotReady
from run import Run

GATEWAY, ROUTER = "gateway-1", "router-1"
# A supervisor needs about so long to start again what has died.
DOWN_S = 2.0
# Twice as long as a lease.
AWAY_S = 20.0
# Keys of a lane in which heads and dedupe rows sort before, messages and the outbox behind: with a region that begins
# there, every commit goes over two regions. 16 lanes, as ops/cluster makes them.
LANES = 16
REGION_BORDER = "\\x00\\x{lane:02x}k"
# How late commits are answered where they must be met on their way.
COMMIT_MS = 200
# So many sends must have been acknowledged, within a time in which even locks of the dead end.
ACKS_AGAIN, ACKS_AGAIN_S = 50, 20.0


def gateway_killed(run: Run) -> None:
    """kill -9, and started again."""
    run.cluster.kill(GATEWAY)
    run.pause(DOWN_S)
    run.cluster.restart(GATEWAY)


def router_killed(run: Run) -> None:
    """kill -9, and started again."""
    run.cluster.kill(ROUTER)
    run.pause(DOWN_S)
    run.cluster.restart(ROUTER)


def paused(member: str, seconds: float) -> Callable[[Run], None]:
    """A member that stands still."""

    def fault(run: Run) -> None:
        run.cluster.kill(member, "STOP")
        run.pause(seconds)
        run.cluster.kill(member, "CONT")

    return fault


def redis_restarted(run: Run) -> None:
    """kill -9, and started again with what it had."""
    run.stack.redis.process.kill()
    run.pause(DOWN_S)
    run.stack.redis.start()
    run.stack.redis.await_ready()


def redis_away(run: Run) -> None:
    """kill -9, and started again with what it had when all leases have run out."""
    run.stack.redis.process.kill()
    run.pause(AWAY_S)
    run.stack.redis.start()
    run.stack.redis.await_ready()


def redis_emptied(run: Run) -> None:
    """kill -9, and started again with nothing."""
    redis = run.stack.redis
    redis.process.kill()
    redis.take_data()
    run.pause(DOWN_S)
    redis.start()
    redis.await_ready()


def redis_forgetful(run: Run) -> None:
    """kill -9, and started again as it was 2 s before, when none of the quiet users had logged in."""
    redis = run.stack.redis
    earlier, keys = redis.copy_of_data(), redis.key_count()
    run.start_quiet()
    run.pause(DOWN_S)
    run.note("keys_forgotten", redis.key_count() - keys)
    redis.process.kill()
    redis.take_data(earlier)
    redis.start()
    redis.await_ready()


def kafka_restarted(run: Run) -> None:
    """kill -9, and started again."""
    run.stack.kafka.process.kill()
    run.pause(DOWN_S)
    run.stack.kafka.start()
    run.stack.kafka.await_ready()


def topic_of(run: Run, gateway: str) -> str:
    """The topic of a gateway's boot, as Redis knows it."""
    prefix = run.cluster.prefix()
    lines = run.stack.redis.ask("HGETALL", f"{prefix}.gateways:{{leases}}")
    boots = [boot for boot, node in zip(lines[::2], lines[1::2], strict=False) if node == gateway]
    if len(boots) != 1:
        raise NotReady(f"{gateway} has {len(boots)} boots in Redis, expected one: {lines}")
    return f"{prefix}.{boots[0]}"


def topic_deleted(run: Run) -> None:
    """The topic of a gateway that lives and is connected."""
    kafka.delete_topic(run.stack.kafka.port, topic_of(run, GATEWAY))


def partition_frozen(run: Run) -> None:
    """One partition of a gateway's topic is read no further for a while."""
    run.stack.partition.freeze(topic_of(run, GATEWAY), 0)
    run.pause(15)
    run.stack.partition.thaw()
    run.note("withheld", run.stack.partition.withheld)


def kafka_disk_full(run: Run) -> None:
    """No room for a record; then there is room again, and Kafka is started as its supervisor would."""
    broker = run.stack.kafka
    broker.fill_disk()
    run.pause(12)
    run.note("kafka_ended_by_itself", 0 if broker.process.is_alive() else 1)
    broker.process.kill()
    broker.free_disk()
    broker.start()
    broker.await_ready()


def store_killed(run: Run) -> None:
    """kill -9, and started again."""
    run.stack.tikv.store.kill()
    run.pause(DOWN_S)
    run.stack.tikv.store.start()
    run.stack.tikv.await_ready()


def store_restarted(run: Run) -> None:
    """Ended as asked, and started again after a moment: one without a call under way would show nothing."""
    run.stack.tikv.store.stop()
    run.pause(1)
    run.stack.tikv.store.start()
    run.stack.tikv.await_ready()


def store_frozen(run: Run) -> None:
    """It answers nothing for a while, then everything at once, whether anybody waits for it or not."""
    run.stack.tikv.control("POST", "/freeze")
    run.pause(10)
    run.stack.tikv.control("POST", "/thaw")


def answers_dropped(run: Run) -> None:
    """One of a hundred answers to commits is lost after the commit was applied."""
    tikv = run.stack.tikv
    tikv.fault("drop", "commit", permille=10)
    run.pause(20)
    run.note("answers_dropped", tikv.faults_hit("drop"))
    tikv.end_faults()


def pd_restarted(run: Run) -> None:
    """PD is killed while commits go over two regions and clients must ask it where those are. The second time it is not
    killed before commits go through again."""
    tikv = run.stack.tikv
    for lane in range(LANES):
        tikv.split(REGION_BORDER.format(lane=lane))
    # A client that hears this forgets where the region is, and asks PD.
    tikv.fault("region_not_found", "commit", permille=500)
    # So most lanes are in the middle of a commit at any moment: its first part is answered late, its second comes then.
    tikv.fault("delay", "commit", ms=COMMIT_MS)
    run.pause(1)
    lost = 0
    for _ in range(2):
        run.await_acks(ACKS_AGAIN, ACKS_AGAIN_S)
        before = tikv.faults_hit("region_not_found")
        tikv.pd.kill()
        run.pause(0.5)
        lost += tikv.faults_hit("region_not_found") - before
        tikv.pd.start()
        tikv.await_ready()
    tikv.end_faults()
    run.note("regions_lost", lost)


def link_blackholed(run: Run) -> None:
    """Nothing comes through a router's links any more, and nobody closes them."""
    proxy = run.stack.proxies[ROUTER]
    proxy.blackhole()
    run.pause(20)
    proxy.restore()


def pd_down_router_killed(run: Run) -> None:
    """Without PD there is no timestamp to read back at: the router dies between its commits and their acknowledgement.
    Commits are applied at once and answered late, so PD goes while most lanes wait for an answer."""
    tikv = run.stack.tikv
    tikv.fault("delay", "commit", ms=COMMIT_MS)
    run.pause(0.5)
    tikv.pd.kill()
    run.pause(2 * COMMIT_MS / 1e3)
    run.cluster.kill(ROUTER)
    tikv.end_faults()
    run.pause(DOWN_S)
    tikv.pd.start()
    tikv.await_ready()
    run.cluster.restart(ROUTER)


def redis_emptied_gateway_paused(run: Run) -> None:
    """Redis loses everything while a gateway, that would have had to claim again, stands still past its lease."""
    run.cluster.kill(GATEWAY, "STOP")
    run.pause(1)
    redis_emptied(run)
    run.pause(12)
    run.cluster.kill(GATEWAY, "CONT")
