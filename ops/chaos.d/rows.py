"""The fault matrix: every row, what it does and what shows that it hit.

A hit names counters of the path that gets over the fault: sends again, links again, claims again, publishes again, repairs.
Where the path has none, because waiting is all it does, a delivery must have waited as long as the fault lasted.
"""

from faults import (
    GATEWAY,
    ROUTER,
    answers_dropped,
    gateway_killed,
    kafka_disk_full,
    kafka_restarted,
    link_blackholed,
    partition_frozen,
    paused,
    pd_down_router_killed,
    pd_restarted,
    redis_away,
    redis_emptied,
    redis_emptied_gateway_paused,
    redis_forgetful,
    redis_restarted,
    router_killed,
    store_frozen,
    store_killed,
    store_restarted,
    topic_deleted,
)
from run import Row
from verdict import Counted, Noted, Rose, Stalled

LAPSED = Rose(("corelane_router_leases_lapsed_total",))
NEW_BOOT = Rose(("corelane_gateway_lease_new_boots_total",))
RESYNC = Rose(("corelane_gateway_deliver_resyncs_total",))
CLAIMED = Rose(("corelane_gateway_session_claims_total",))
READ_BACK = Rose(("corelane_router_read_back_total",))
LINK_LOST = Rose(("corelane_gateway_link_lost_total",))
SENT_AGAIN = Rose(("corelane_gateway_forward_retry_total", "corelane_router_repeated_total"))
PUBLISHED_AGAIN = Rose(("corelane_router_kafka_unpublished_total", "corelane_router_bus_republished_total"))
READ_ANEW = Rose(("corelane_gateway_kafka_stalls_total",))
# Calls to the store that failed, and commits whose outcome had to be found out.
STORE_FAULTS = Rose(("corelane_store_faults_total",))
UNSURE = Rose(("corelane_store_unsure_total",))
REPAIRED = Rose(("corelane_store_repairs_total",))
STORED_BEFORE = Rose(("corelane_router_repeated_total",))
RECONNECTED = Counted(("dropped",))

ROWS = (
    Row(
        "gateway-killed",
        "kill -9 a gateway, started again after 2 s",
        gateway_killed,
        6,
        (RECONNECTED, LAPSED),
        ("gateway",),
    ),
    Row(
        "router-killed",
        "kill -9 a router, started again after 2 s",
        router_killed,
        # It cannot be in the list again before the lease of the one that it replaces has ended.
        14,
        (LINK_LOST, SENT_AGAIN),
        ("router",),
    ),
    Row(
        "gateway-paused-5",
        "SIGSTOP a gateway for 5 s",
        paused(GATEWAY, 5),
        6,
        (Stalled(4),),
        ("gateway",),
    ),
    Row(
        "gateway-paused-30",
        "SIGSTOP a gateway for 30 s, past its lease",
        paused(GATEWAY, 30),
        31,
        (Stalled(20), LAPSED, NEW_BOOT),
        ("gateway",),
    ),
    Row(
        "router-paused-5",
        "SIGSTOP a router for 5 s",
        paused(ROUTER, 5),
        6,
        (Stalled(4),),
        ("router",),
    ),
    Row(
        "router-paused-30",
        "SIGSTOP a router for 30 s, past its lease",
        paused(ROUTER, 30),
        31,
        (SENT_AGAIN, Counted(("retries",))),
        ("router",),
    ),
    Row(
        "redis-restarted",
        "kill -9 Redis, started again with its data",
        redis_restarted,
        4,
        (Stalled(1.5),),
        ("redis",),
    ),
    Row(
        "redis-away",
        "kill -9 Redis, started again with its data after 20 s, past all leases",
        redis_away,
        22,
        (Stalled(18), READ_BACK),
        ("redis",),
        spares=("corelane_gateway_deliver_resyncs_total", "corelane_gateway_lease_new_boots_total"),
    ),
    Row(
        "redis-emptied",
        "kill -9 Redis, started again without data",
        redis_emptied,
        4,
        (CLAIMED, RESYNC),
        ("redis",),
    ),
    Row(
        "redis-forgetful",
        "kill -9 Redis, started again without the last 2 s of claims",
        redis_forgetful,
        5,
        (Noted("keys_forgotten"), RESYNC),
        ("redis",),
        starts_quiet=True,
    ),
    Row(
        "kafka-restarted",
        "kill -9 Kafka, started again after 2 s",
        kafka_restarted,
        14,
        (Stalled(2),),
        ("kafka",),
    ),
    Row(
        "topic-deleted",
        "the topic of a live gateway is deleted",
        topic_deleted,
        2,
        (NEW_BOOT, RESYNC),
        ("kafka",),
    ),
    Row(
        "partition-frozen",
        "one partition's consumer stands still for 15 s",
        partition_frozen,
        16,
        (Noted("withheld"), READ_ANEW),
        ("kafka",),
        kafka_proxy=True,
    ),
    Row(
        "kafka-disk-full",
        "Kafka's disk is full for 12 s",
        kafka_disk_full,
        # Starting Kafka on a log that ended anyhow takes 20 s of a busy CPU.
        40,
        (Stalled(8), PUBLISHED_AGAIN),
        ("kafka",),
        small_disk=True,
        needs_root=True,
    ),
    Row(
        "store-killed",
        "kill -9 the store, started again after 2 s",
        store_killed,
        6,
        (STORE_FAULTS,),
        ("store",),
    ),
    Row(
        "store-frozen",
        "the store stands still for 10 s",
        store_frozen,
        11,
        (STORE_FAULTS,),
        ("store",),
    ),
    Row(
        "store-restarted",
        "the store is ended and started again",
        store_restarted,
        6,
        (STORE_FAULTS,),
        ("store",),
    ),
    Row(
        "pd-restarted",
        "PD is restarted twice at the moment of commits over two regions",
        pd_restarted,
        22,
        (Noted("regions_lost"), UNSURE),
        ("store", "pd"),
    ),
    Row(
        "answers-dropped",
        "1 % of commit answers are dropped after applying, for 20 s",
        answers_dropped,
        21,
        # The client itself asks again for what was not answered, after 2 s: the lane waits for it, and nothing counts that.
        (Noted("answers_dropped"), Stalled(1.9)),
        ("store",),
    ),
    Row(
        "link-blackholed",
        "nothing comes through a router's links for 20 s",
        link_blackholed,
        21,
        (LINK_LOST, SENT_AGAIN),
        ("link",),
        link_proxy=True,
        # Within the fault, not only after 30 s.
        settings=("gateway router.link_silence_ms=8000",),
    ),
    Row(
        "pd-down-router-killed",
        "PD down, and a router killed between commit and read-back",
        pd_down_router_killed,
        16,
        # Sends that were stored and not acknowledged: it was between the two.
        (LINK_LOST, REPAIRED, STORED_BEFORE),
        ("store", "pd", "router"),
    ),
    Row(
        "redis-emptied-gateway-paused",
        "Redis loses its data while a gateway stands still past its lease",
        redis_emptied_gateway_paused,
        18,
        (Stalled(10), CLAIMED, RESYNC),
        ("redis", "gateway"),
    ),
)

BY_NAME = {row.name: row for row in ROWS}
