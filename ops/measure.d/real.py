"""A cluster of ops/cluster on the real services, for the time of one runner, and the load generator against it.

What runs already is used and left alone: services that the environment names, or that somebody started by ops/services.
The cluster has a directory, ports (7150 to 7199) and so topics and keys of its own, and a part of the store of its own.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Of ops/chaos.d.
from cluster import GATEWAYS, ROUTERS, Cluster
from process import identity_in, wait_until

from target import OUT, ROOT, loadgen_command, start_loadgen, usage

PORTS = 7150
SERVICES = {"redis": "CORELANE_TEST_REDIS", "kafka": "CORELANE_TEST_KAFKA", "tikv": "CORELANE_TEST_PD"}
MEMBERS = (*ROUTERS, *GATEWAYS)
SETTLED_S = 15.0


def services(*words: str) -> str:
    """Runs ops/services, whose complaints are seen at once."""
    done = subprocess.run([ROOT / "ops/services", *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"ops/services {' '.join(words)} failed")
    return done.stdout


def is_ready(service: str) -> bool:
    """Whether a service runs."""
    line = [ROOT / "ops/services", "status", service]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def addresses_in(exports: str) -> dict[str, str]:
    """The environment of lines as `ops/services env` prints them."""
    pairs = (line.removeprefix("export ").split("=", 1) for line in exports.splitlines() if "=" in line)
    return {name: value.strip("'") for name, value in pairs}


@contextmanager
def real_services() -> Iterator[dict[str, str]]:
    """The addresses of all services. Those that did not run are started, and stopped at the end."""
    found = {variable: os.environ[variable] for variable in SERVICES.values() if os.environ.get(variable)}
    wanted = [name for name, variable in SERVICES.items() if variable not in found]
    started = [name for name in wanted if not is_ready(name)]
    try:
        if started:
            services("up", *started)
        if wanted:
            named = addresses_in(services("env", *wanted))
            found |= {SERVICES[name]: named[SERVICES[name]] for name in wanted}
        yield found
    finally:
        if started:
            services("down", *started)


@contextmanager
def real_cluster(args, *settings: str) -> Iterator[Cluster]:
    """Two routers and two gateways, with settings as in `router bus.topic_keep_secs=60`. Its logs stay in target/measure."""
    with real_services() as addresses:
        cluster = Cluster(OUT / "cluster", PORTS, Path(args.bin_dir).resolve(), addresses)
        # Nothing of an earlier run, which would cost time, and whose routers had another store.
        name = f"m{time.time_ns():x}."
        own = (f"router store.prefix={name}", f"router registry.prefix={name}")
        try:
            cluster.down()
            cluster.up([word for each in (*own, *settings) for word in ("--set", *each.split(" ", 1))])
            await_settled(cluster)
            yield cluster
        finally:
            logs = OUT / f"{args.verb}-logs"
            shutil.rmtree(logs, ignore_errors=True)
            logs.mkdir(parents=True)
            for log in cluster.log_files():
                shutil.copy(log, logs / log.name)
            cluster.down()


def await_settled(cluster: Cluster) -> None:
    """Until routers know each other and gateways are linked to all. Members are ready before: a router that knows nothing of
    the other one refuses what that one is to store, and whoever sends then measures a start."""

    def is_settled() -> bool:
        looks = {name: look.values for name, look in cluster.look_at_all().items()}
        routers, gateways = [looks[name] for name in ROUTERS], [looks[name] for name in GATEWAYS]
        return (
            all(router["corelane_router_list_routers"] == len(ROUTERS) for router in routers)
            and all(router["corelane_router_lanes_held"] == 0 for router in routers)
            and all(gateway["corelane_gateway_links"] >= len(ROUTERS) for gateway in gateways)
        )

    wait_until("cluster whose members all know each other", SETTLED_S, is_settled)


def pid_of(cluster: Cluster, name: str) -> int:
    """A member's process."""
    found = identity_in(cluster.pid_file(name))
    if found is None:
        sys.exit(f"{name} does not run; see {OUT / '*-logs'}")
    return found[0]


def rss_anon(cluster: Cluster, name: str) -> int:
    """The memory of a member that is no file, in bytes."""
    return usage(pid_of(cluster, name))[1]


def values(cluster: Cluster, names: Sequence[str], metric: str) -> dict[str, float]:
    """A metric of members, summed over its labels; one that they do not have is an error."""
    found = {}
    for name in names:
        figures = cluster.look(name).values
        if metric not in figures:
            sys.exit(f"{name} has no metric {metric}")
        found[name] = figures[metric]
    return found


def loadgen(cluster: Cluster, name: str, scenario: str, urls: Sequence[str], *flags: str):
    """Starts the generator against gateways of a cluster. Its report has what all members counted."""
    words = [scenario, *urls]
    words += ["--secret-file", str(cluster.key("token")), "--admin-key-file", str(cluster.key("admin"))]
    for router in ROUTERS:
        words += ["--http", cluster.http(router)]
    for member in MEMBERS:
        words += ["--metrics", cluster.health(member), "--target-pid", str(pid_of(cluster, member))]
    words += ["--per-second", str(OUT / f"{name}.csv"), *flags]
    return start_loadgen(name, loadgen_command(str(cluster.bin_dir), *words))
