"""ops/compose: against the schema of the Compose specification, and what its numbers and names must agree with."""

import importlib.util
import json
import pathlib
import posixpath
import re

import jsonschema

from .tree import image_problems, variable_problems

PATH = "ops/compose/compose.yaml"
DIRECTORY = posixpath.dirname(PATH)
TO_SPARE_S = 5
# Rings of a shard (net/src/config.rs), each with as many places as there may be open files.
RINGS_MAX = 64
# Memory that the kernel counts as locked (ops/host/README.md): of a gateway with two shards, of each ring more.
PROCESS_LOCKED = 2 << 20
RING_LOCKED = 200 << 10


def schema():
    """The schema of the Compose specification, which check-jsonschema carries."""
    # Found without importing: the package is here for this file only, without what it depends on.
    (package,) = importlib.util.find_spec("check_jsonschema").submodule_search_locations
    path = pathlib.Path(package) / "builtin_schemas" / "vendor" / "compose-spec.json"
    return json.loads(path.read_text(encoding="utf-8"))


def services(tree):
    """Name and definition of each service."""
    (compose,) = tree.documents(PATH)
    return compose["services"]


def of_corelane(tree):
    """Name, definition and configuration of the gateways and routers."""
    for name, service in services(tree).items():
        if name.startswith(("gateway", "router")):
            yield name, service, tree.gateway if name.startswith("gateway") else tree.router


def seconds(text):
    """A duration that is written in seconds."""
    found = re.fullmatch(r"(\d+)s", str(text))
    return int(found[1]) if found else -1


def the_file_fits_the_schema(tree):
    (compose,) = tree.documents(PATH)
    validator = jsonschema.validators.validator_for(schema())(schema())
    for error in validator.iter_errors(compose):
        yield f"{PATH}: {'.'.join(map(str, error.path))}: {error.message}"


def images_and_variables_are_known(tree):
    for name, service in services(tree).items():
        yield from image_problems(name, service.get("image", ""), tree.version)
    for name, service, config in of_corelane(tree):
        for variable in service["environment"]:
            yield from variable_problems(name, variable, config)


def the_grace_is_that_of_the_drain(tree):
    grace = tree.seconds("gateway/src/process.rs", "DRAIN_GRACE")
    drain_s = -(-tree.gateway.get("gateway", "drain_ms") // 1000)
    stop = tree.seconds("router/src/start.rs", "STOP_GRACE")
    for name, service, _ in of_corelane(tree):
        has = seconds(service.get("stop_grace_period", "10s"))
        if name.startswith("gateway") and has != drain_s + grace + TO_SPARE_S:
            yield f"{name}: stop_grace_period is {has} s; {drain_s} + DRAIN_GRACE {grace} + {TO_SPARE_S} is needed"
        if name.startswith("router") and has < 2 * stop + TO_SPARE_S:
            yield f"{name}: stop_grace_period is {has} s, less than 2 x STOP_GRACE {stop} + {TO_SPARE_S}"


def no_service_may_more_than_it_needs(tree):
    for name, service, _ in of_corelane(tree):
        if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
            yield f"{name}: read_only and cap_drop: [ALL] are not both there"
        options = dict(option.replace(":", "=", 1).split("=", 1) for option in service["security_opt"])
        if options.get("no-new-privileges") != "true":
            yield f"{name}: no-new-privileges is missing"
        profile = options.get("seccomp")
        if name.startswith("gateway"):
            path = posixpath.normpath(posixpath.join(DIRECTORY, profile or "-"))
            if not path.startswith("ops/seccomp/") or not tree.exists(path):
                yield f"{name}: the seccomp profile {profile} is none of ops/seccomp"
        elif profile:
            yield f"{name}: it needs no seccomp profile of its own"


def health_checks_ask_where_something_listens(tree):
    for name, service in services(tree).items():
        if "healthcheck" not in service and service.get("restart") != "no":
            yield f"{name}: it has no health check"
    for name, service, config in of_corelane(tree):
        port = config.port("admin", "listen") if name.startswith("gateway") else config.port("router", "http_listen")
        wanted = ["CMD", "probe", str(port), "/readyz"]
        if service["healthcheck"]["test"] != wanted:
            yield f"{name}: the health check is {service['healthcheck']['test']}, not {wanted}"


def names_lead_to_what_is_there(tree):
    (compose,) = tree.documents(PATH)
    mounted = set()
    for name, service in services(tree).items():
        for other, how in service.get("depends_on", {}).items():
            if other not in compose["services"]:
                yield f"{name}: it depends on {other}, which is no service"
            elif how["condition"] == "service_healthy" and "healthcheck" not in compose["services"][other]:
                yield f"{name}: it waits until {other} is healthy, which has no health check"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if not source.startswith("."):
                mounted.add(source)
            elif not tree.exists(posixpath.normpath(posixpath.join(DIRECTORY, source))):
                yield f"{name}: {source} is not there"
    for volume in mounted ^ compose["volumes"].keys():
        yield f"{PATH}: the volume {volume} is used and not defined, or defined and not used"
    published = [port.rsplit(":", 1)[0] for each in services(tree).values() for port in each.get("ports", [])]
    for port in {port for port in published if published.count(port) > 1}:
        yield f"{PATH}: {port} is published twice"


def addresses_of_the_configuration_are_aliases(tree):
    aliases = set()
    for service in services(tree).values():
        aliases |= set(service.get("networks", {}).get("default", {}).get("aliases", []))
    hosts = [seed.rsplit(":", 1)[0] for seed in tree.gateway.get("router", "seeds")]
    hosts += re.findall(r"//([^/:?]+)", tree.router.get("registry", "url"))
    for host in hosts:
        if host not in aliases:
            yield f"ops/config names {host}, which is no alias of a service"


def limits_cover_the_connections(tree):
    for name, service, config in of_corelane(tree):
        if not name.startswith("gateway"):
            continue
        places = service["ulimits"]["nofile"]["soft"] * RINGS_MAX
        if places < config.get("connection", "count_max"):
            yield f"{name}: nofile makes {places} places per shard, fewer than connection.count_max"
        rings = service["cpus"] * -(-config.get("connection", "count_max") // service["ulimits"]["nofile"]["soft"])
        if service["ulimits"]["memlock"]["soft"] < PROCESS_LOCKED + rings * RING_LOCKED:
            yield f"{name}: memlock is too little for {rings} rings"


CHECKS = (
    the_file_fits_the_schema,
    images_and_variables_are_known,
    the_grace_is_that_of_the_drain,
    no_service_may_more_than_it_needs,
    health_checks_ask_where_something_listens,
    names_lead_to_what_is_there,
    addresses_of_the_configuration_are_aliases,
    limits_cover_the_connections,
)
