"""ops/kubernetes: against the schemas of Kubernetes, and what its numbers and names must agree with."""

import re

import kubernetes_validate

from .tree import image_problems, variable_problems

DIRECTORY = "ops/kubernetes"
KUSTOMIZATION = f"{DIRECTORY}/kustomization.yaml"
README = f"{DIRECTORY}/README.md"
# The oldest that the README promises; the newest that the schemas are there for is checked as well.
OLDEST = "1.30"
# What a gateway's pod has beyond its drain, in s.
TO_SPARE_S = 5
# A connection: kernel and gateway (gateway/src/config/sections.rs). A gateway without any: rings, buffers, threads.
CONNECTION_BYTES = 4096 + 640
PROCESS_BYTES = 256 << 20
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def resources(tree):
    """Each object, with the file it stands in."""
    for path in tree.files(DIRECTORY, ".yaml"):
        if path != KUSTOMIZATION:
            for document in tree.documents(path):
                yield path, document


def of_kind(tree, kind):
    """The objects of one kind by name."""
    return {d["metadata"]["name"]: d for _, d in resources(tree) if d["kind"] == kind}


def pods(tree):
    """Name, pod and single container of each StatefulSet."""
    for name, each in of_kind(tree, "StatefulSet").items():
        pod = each["spec"]["template"]["spec"]
        yield name, pod, pod["containers"][0]


def config_of(tree, name):
    """The configuration of what runs in a pod."""
    return tree.gateway if "gateway" in name else tree.router


def listens(tree, name):
    """Names and numbers of the ports that a process listens on."""
    config = config_of(tree, name)
    if "gateway" in name:
        return {"websocket": config.port("gateway", "listen"), "admin": config.port("admin", "listen")}
    return {"link": config.port("router", "link_listen"), "http": config.port("router", "http_listen")}


def the_manifests_fit_the_schemas(tree):
    for version in (OLDEST, kubernetes_validate.latest_version()):
        for path, document in resources(tree):
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(map(str, error.path))
                yield f"{path}, {document['kind']}, Kubernetes {version}: {where}: {error.message}"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{path}, Kubernetes {version}: {error.message}"


def the_kustomization_lists_every_file(tree):
    (kustomization,) = tree.documents(KUSTOMIZATION)
    known = {"apiVersion", "kind", "resources", "labels", "images"}
    for key in kustomization.keys() - known:
        yield f"{KUSTOMIZATION}: {key} is none of {', '.join(sorted(known))}"
    there = {path.removeprefix(f"{DIRECTORY}/") for path in tree.files(DIRECTORY, ".yaml")} - {"kustomization.yaml"}
    for name in there ^ set(kustomization.get("resources", [])):
        yield f"{KUSTOMIZATION}: {name} is listed and not there, or there and not listed"
    for image in kustomization["images"]:
        yield from image_problems(KUSTOMIZATION, f"{image['newName']}:{image['newTag']}", tree.version)


def the_configmaps_are_copies_of_the_configuration(tree):
    for kind in ("gateway", "router"):
        copy = of_kind(tree, "ConfigMap")[f"corelane-{kind}"]["data"]
        if copy != {f"{kind}.toml": tree.text(f"ops/config/{kind}.toml")}:
            yield f"{DIRECTORY}/{kind}-config.yaml differs from ops/config/{kind}.toml: run ops/check-manifests --write"


def the_grace_is_that_of_the_drain(tree):
    grace = tree.seconds("gateway/src/process.rs", "DRAIN_GRACE")
    drain_ms = tree.gateway.get("gateway", "drain_ms")
    stop = tree.seconds("router/src/start.rs", "STOP_GRACE")
    for name, pod, container in pods(tree):
        has = pod["terminationGracePeriodSeconds"]
        if "gateway" in name:
            before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            needs = before + -(-drain_ms // 1000) + grace + TO_SPARE_S
            if has != needs:
                yield (
                    f"{name}: terminationGracePeriodSeconds is {has}; preStop {before} + drain_ms {drain_ms} + "
                    f"DRAIN_GRACE {grace} + {TO_SPARE_S} make {needs}"
                )
        elif has < 2 * stop + TO_SPARE_S:
            yield f"{name}: terminationGracePeriodSeconds is {has}, less than 2 x STOP_GRACE {stop} + {TO_SPARE_S}"


def no_pod_may_more_than_it_needs(tree):
    for name, pod, container in pods(tree):
        if pod.get("enableServiceLinks") is not False:
            yield f"{name}: enableServiceLinks is not false: variables of Services could be read as configuration"
        if pod.get("automountServiceAccountToken") is not False:
            yield f"{name}: automountServiceAccountToken is not false"
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        if container.get("securityContext") != wanted:
            yield f"{name}: the container's securityContext is not {wanted}"
        context = pod["securityContext"]
        user = re.search(r"^USER (\d+):(\d+)$", tree.text("ops/Dockerfile"), re.MULTILINE)
        ids = [context.get(key) for key in ("runAsUser", "runAsGroup", "fsGroup")]
        if not context.get("runAsNonRoot") or ids != [int(user[1]), int(user[2]), int(user[2])]:
            yield f"{name}: it does not run as the image's user {user[0]}"
        yield from seccomp_problems(tree, name, context.get("seccompProfile", {}))


def seccomp_problems(tree, name, profile):
    """Gateways need the profile with io_uring, by the name that it has here; nobody else does."""
    if "gateway" not in name:
        if profile != {"type": "RuntimeDefault"}:
            yield f"{name}: seccompProfile is not RuntimeDefault"
    elif profile.get("type") != "Localhost" or not tree.exists(f"ops/seccomp/{profile.get('localhostProfile')}"):
        yield f"{name}: seccompProfile {profile} is none of ops/seccomp"


def ports_are_those_of_the_configuration(tree):
    served = {
        "gateway": tree.text("gateway/src/admin.rs"),
        "router": tree.text("router/src/api/mod.rs"),
    }
    for name, _, container in pods(tree):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        if ports != listens(tree, name):
            yield f"{name}: the ports are {ports}, the configuration's {listens(tree, name)}"
        wanted = {"livenessProbe": "/healthz", "startupProbe": "/healthz", "readinessProbe": "/readyz"}
        for probe, path in wanted.items():
            get = container[probe]["httpGet"]
            if get["path"] != path or f'"{path}"' not in re.sub(r"\s", "", served[name.removeprefix("corelane-")]):
                yield f"{name}: {probe} asks for {get['path']}, and {path} is what is served for it"
            if get["port"] != ("admin" if "gateway" in name else "http"):
                yield f"{name}: {probe} asks at the port {get['port']}"
    for name, service in of_kind(tree, "Service").items():
        owner = service["spec"]["selector"]["app.kubernetes.io/name"]
        for port in service["spec"]["ports"]:
            if listens(tree, owner).get(port["targetPort"]) != port["port"]:
                yield f"Service {name}: port {port['port']} leads to {port['targetPort']} of {owner}"


def names_lead_to_what_is_there(tree):
    services = of_kind(tree, "Service")
    for name, each in of_kind(tree, "StatefulSet").items():
        labels = each["spec"]["template"]["metadata"]["labels"]
        if services.get(each["spec"]["serviceName"], {}).get("spec", {}).get("clusterIP") != "None":
            yield f"{name}: serviceName {each['spec']['serviceName']} is no headless Service"
        budget = of_kind(tree, "PodDisruptionBudget").get(name, {}).get("spec", {})
        spec = each["spec"]["template"]["spec"]
        terms = list(spec["topologySpreadConstraints"])
        for strength in spec["affinity"]["podAntiAffinity"].values():
            terms += [term.get("podAffinityTerm", term) for term in strength]
        selectors = [each["spec"]["selector"], budget.get("selector"), *(term["labelSelector"] for term in terms)]
        if any(selector != {"matchLabels": labels} for selector in selectors):
            yield f"{name}: a selector of it, its disruption budget or its spread does not choose its pods {labels}"
        monitored = each["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
        if monitored != str(listens(tree, name)["admin" if "gateway" in name else "http"]):
            yield f"{name}: prometheus.io/port is {monitored}"
    for seed in tree.gateway.get("router", "seeds"):
        host, port = seed.rsplit(":", 1)
        ports = [each["port"] for each in services.get(host, {}).get("spec", {}).get("ports", [])]
        if int(port) not in ports:
            yield f"ops/config/gateway.toml: the seed {seed} is no Service of {DIRECTORY}"


def images_and_variables_are_known(tree):
    for name, pod, container in pods(tree):
        for each in pod.get("initContainers", []) + pod["containers"]:
            yield from image_problems(name, each["image"], tree.version)
        for variable in container["env"]:
            yield from variable_problems(name, variable["name"], config_of(tree, name))
        # Pods are named for their program.
        wanted = [name, "--config", f"/etc/corelane/{name.removeprefix('corelane-')}.toml"]
        if container["args"] != wanted:
            yield f"{name}: the arguments are {container['args']}, not {wanted}"


def secrets_are_in_the_readme(tree):
    """What must be made by hand must be said: each secret and each of its keys."""
    said = tree.text(README)
    for name, pod, container in pods(tree):
        wanted = []
        for variable in container["env"]:
            if "value" in variable:
                continue
            reference = variable["valueFrom"].get("secretKeyRef")
            wanted += [reference["name"], reference["key"]] if reference else []
        for volume in pod["volumes"]:
            if "secret" in volume:
                wanted += [volume["secret"]["secretName"], *(item["key"] for item in volume["secret"]["items"])]
        for word in wanted:
            if f"`{word}`" not in said:
                yield f"{name}: {README} does not say what the secret {word} is"
    if of_kind(tree, "Secret"):
        yield "a Secret is among the manifests"


def memory_covers_the_connections(tree):
    for name, _, container in pods(tree):
        limits = container["resources"]["limits"]
        number, unit = re.fullmatch(r"(\d+)(\w+)", limits["memory"]).groups()
        if "gateway" not in name:
            continue
        if container["resources"]["requests"] != limits or not limits["cpu"].isdigit():
            yield f"{name}: requests are not limits, or not whole CPUs: shards would share theirs"
            continue
        config = tree.gateway
        shards = config.get("gateway", "shards") or int(limits["cpu"])
        each = config.get("connection", "count_max") * CONNECTION_BYTES
        needs = shards * (each + config.get("connection", "queue_total_bytes_max")) + PROCESS_BYTES
        if int(number) * UNITS[unit] < needs * 4 // 3:
            yield f"{name}: {limits['memory']} of memory; {shards} shards need {needs >> 20} MiB and a third to spare"


CHECKS = (
    the_manifests_fit_the_schemas,
    the_kustomization_lists_every_file,
    the_configmaps_are_copies_of_the_configuration,
    the_grace_is_that_of_the_drain,
    no_pod_may_more_than_it_needs,
    ports_are_those_of_the_configuration,
    names_lead_to_what_is_there,
    images_and_variables_are_known,
    secrets_are_in_the_readme,
    memory_covers_the_connections,
)
