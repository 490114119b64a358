"""Changes that must be noticed: what a check cannot find it does not check.

Each is a name, the check that must fail, the file, what is replaced (once) and by what, and a part of what the check
must say.
"""

from . import compose, host, kubernetes

GATEWAY = "ops/kubernetes/gateway.yaml"
ROUTER = "ops/kubernetes/router.yaml"
KUSTOMIZATION = kubernetes.KUSTOMIZATION
COMPOSE = compose.PATH
PROFILE = "ops/seccomp/corelane.json"
PROCESS = "gateway/src/process.rs"
SYSCTL = "ops/host/90-corelane.conf"
RUNBOOK = "ops/runbooks/redis-away.md"

IN_KUBERNETES = (
    (
        "a misspelt field", kubernetes.the_manifests_fit_the_schemas, GATEWAY, "minReadySeconds", "minReadySecond",
        "minReadySecond",
    ),
    ("a wrong type", kubernetes.the_manifests_fit_the_schemas, ROUTER, "replicas: 2", 'replicas: "2"', "replicas"),
    (
        "a wrong kind", kubernetes.the_manifests_fit_the_schemas, ROUTER, "kind: StatefulSet", "kind: StatefulSett",
        "StatefulSett",
    ),
    (
        "a file that is not listed", kubernetes.the_kustomization_lists_every_file, KUSTOMIZATION,
        "  - router.yaml\n", "", "router.yaml",
    ),
    (
        "a configuration that drifted", kubernetes.the_configmaps_are_copies_of_the_configuration,
        "ops/config/router.toml", "threads = 0", "threads = 2", "router.toml",
    ),
    (
        "a longer drain in the configuration", kubernetes.the_grace_is_that_of_the_drain, "ops/config/gateway.toml",
        "30_000", "60_000", "make 80",
    ),
    (
        "a longer drain in the code", kubernetes.the_grace_is_that_of_the_drain, PROCESS,
        "from_secs(10);\n\n/// A link", "from_secs(20);\n\n/// A link", "DRAIN_GRACE 20",
    ),
    (
        "a shorter grace", kubernetes.the_grace_is_that_of_the_drain, GATEWAY, "GracePeriodSeconds: 50",
        "GracePeriodSeconds: 30", "is 30",
    ),
    (
        "a router without grace", kubernetes.the_grace_is_that_of_the_drain, ROUTER, "GracePeriodSeconds: 30",
        "GracePeriodSeconds: 10", "is 10",
    ),
    (
        "links of Services", kubernetes.no_pod_may_more_than_it_needs, GATEWAY, "      enableServiceLinks: false\n",
        "", "enableServiceLinks",
    ),
    (
        "a writable root", kubernetes.no_pod_may_more_than_it_needs, ROUTER, "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false", "securityContext",
    ),
    (
        "another user than the image's", kubernetes.no_pod_may_more_than_it_needs, "ops/Dockerfile",
        "USER 10001:10001", "USER 999:999", "999",
    ),
    (
        "a profile that is not there", kubernetes.no_pod_may_more_than_it_needs, GATEWAY, "corelane.json}",
        "corelan.json}", "corelan.json",
    ),
    (
        "a wrong port of a probe", kubernetes.ports_are_those_of_the_configuration, GATEWAY,
        "{path: /healthz, port: admin}", "{path: /healthz, port: websocket}", "websocket",
    ),
    (
        "a wrong path of a probe", kubernetes.ports_are_those_of_the_configuration, ROUTER, "/readyz", "/ready",
        "/ready",
    ),
    (
        "a wrong port of a container", kubernetes.ports_are_those_of_the_configuration, GATEWAY,
        "containerPort: 7071", "containerPort: 7072", "7072",
    ),
    (
        "another port in the configuration", kubernetes.ports_are_those_of_the_configuration,
        "ops/config/router.toml", "0.0.0.0:7090", "0.0.0.0:7091", "7091",
    ),
    (
        "a wrong port of a Service", kubernetes.ports_are_those_of_the_configuration, ROUTER,
        "port: 7080, targetPort: http", "port: 80, targetPort: http", "port 80",
    ),
    (
        "a probe's path that the code renamed", kubernetes.ports_are_those_of_the_configuration,
        "gateway/src/admin.rs", '"/readyz"', '"/ready"', "readinessProbe",
    ),
    (
        "a selector that chooses nothing", kubernetes.names_lead_to_what_is_there, ROUTER,
        "selector: {matchLabels: {app.kubernetes.io/name: corelane-router}}",
        "selector: {matchLabels: {app.kubernetes.io/name: router}}", "corelane-router",
    ),
    (
        "a seed that is no Service", kubernetes.names_lead_to_what_is_there, "ops/config/gateway.toml",
        "corelane-routers:7090", "routers:7090", "routers:7090",
    ),
    (
        "an image without a version", kubernetes.images_and_variables_are_known, GATEWAY, "image: corelane:0.1.0",
        "image: corelane:latest", "latest",
    ),
    (
        "an image of another version", kubernetes.images_and_variables_are_known, ROUTER, "image: corelane:0.1.0",
        "image: corelane:0.0.9", "0.0.9",
    ),
    (
        "a misspelt variable", kubernetes.images_and_variables_are_known, GATEWAY, "CORELANE__GATEWAY__NODE",
        "CORELANE__GATEWAY__NODES", "NODES",
    ),
    (
        "a variable of one underscore", kubernetes.images_and_variables_are_known, ROUTER, "CORELANE__ROUTER__NODE",
        "CORELANE_ROUTER_NODE", "CORELANE_ROUTER_NODE",
    ),
    (
        "a secret that nobody told of", kubernetes.secrets_are_in_the_readme, ROUTER,
        "name: corelane-redis, key: password", "name: corelane-redis, key: pass", "pass",
    ),
    (
        "more connections than memory", kubernetes.memory_covers_the_connections, "ops/config/gateway.toml",
        "count_max = 100_000", "count_max = 400_000", "MiB",
    ),
    (
        "half a CPU", kubernetes.memory_covers_the_connections, GATEWAY, 'requests: {cpu: "2"', 'requests: {cpu: "1"',
        "requests",
    ),
)

IN_COMPOSE = (
    (
        "a misspelt field", compose.the_file_fits_the_schema, COMPOSE, "    healthcheck:", "    healthchek:",
        "healthchek",
    ),
    (
        "an image without a version", compose.images_and_variables_are_known, COMPOSE, "redis:7.2.7-bookworm",
        "redis", "redis",
    ),
    (
        "a misspelt variable", compose.images_and_variables_are_known, COMPOSE, "CORELANE__GATEWAY__NODE: gateway-2",
        "CORELANE__GATEWAY__NAME: gateway-2", "NAME",
    ),
    (
        "a shorter grace", compose.the_grace_is_that_of_the_drain, COMPOSE, "stop_grace_period: 45s",
        "stop_grace_period: 30s", "30 s",
    ),
    (
        "a longer drain in the configuration", compose.the_grace_is_that_of_the_drain, "ops/config/gateway.toml",
        "30_000", "60_000", "60 + DRAIN_GRACE",
    ),
    (
        "a profile that is not there", compose.no_service_may_more_than_it_needs, COMPOSE,
        "../seccomp/corelane.json\"", "seccomp/corelane.json\"", "seccomp",
    ),
    (
        "a writable root", compose.no_service_may_more_than_it_needs, COMPOSE, "read_only: true", "read_only: false",
        "read_only",
    ),
    (
        "a wrong port of a health check", compose.health_checks_ask_where_something_listens, COMPOSE,
        '"7071", /readyz', '"7070", /readyz', "7070",
    ),
    (
        "no health check", compose.health_checks_ask_where_something_listens, COMPOSE,
        'healthcheck:\n      test: [CMD-SHELL, "redis', 'x-healthcheck:\n      test: [CMD-SHELL, "redis', "redis",
    ),
    (
        "a dependency that is not there", compose.names_lead_to_what_is_there, COMPOSE, "    tikv: {condition",
        "    tikw: {condition", "tikw",
    ),
    (
        "a file that is not there", compose.names_lead_to_what_is_there, COMPOSE, "../config/gateway.toml",
        "../config/gate.toml", "gate.toml",
    ),
    (
        "a port that is published twice", compose.names_lead_to_what_is_there, COMPOSE, "127.0.0.1:7072:7070",
        "127.0.0.1:7070:7070", "twice",
    ),
    (
        "a name that nobody has", compose.addresses_of_the_configuration_are_aliases, COMPOSE,
        "aliases: [corelane-redis]", "aliases: [redis]", "corelane-redis",
    ),
    (
        "too little memory for rings", compose.limits_cover_the_connections, COMPOSE, "memlock: {soft: 67108864",
        "memlock: {soft: 4194304", "memlock",
    ),
    (
        "fewer places than connections", compose.limits_cover_the_connections, COMPOSE, "nofile: {soft: 16384",
        "nofile: {soft: 1024", "places",
    ),
)

IN_HOST = (
    (
        "another toolchain", host.the_image_is_built_from_what_is_there, "rust-toolchain.toml", "1.95.0", "1.96.0",
        "1.96.0",
    ),
    (
        "a signal that drains nothing", host.the_image_is_built_from_what_is_there, "ops/Dockerfile",
        "STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "SIGTERM",
    ),
    (
        "a member that the build does not get", host.the_build_gets_what_it_needs, "ops/Dockerfile.dockerignore",
        "!loadgen\n", "", "loadgen",
    ),
    (
        "io_uring taken out", host.the_seccomp_profile_allows_rings_and_nothing_else_new, PROFILE,
        '"io_uring_enter", ', "", "io_uring_enter",
    ),
    (
        "a call that no container may", host.the_seccomp_profile_allows_rings_and_nothing_else_new, PROFILE,
        '"access", ', '"access", "bpf", ', "bpf",
    ),
    (
        "a condition that containerd ignores", host.the_seccomp_profile_allows_rings_and_nothing_else_new, PROFILE,
        '"names": ["socket"]', '"includes": {}, "names": ["socket"]', "includes",
    ),
    (
        "a setting without a reason", host.each_setting_of_the_host_has_its_reason, SYSCTL,
        "net.core.somaxconn = 4096", "net.core.somaxconn = 4096\nnet.core.busy_poll = 50", "busy_poll",
    ),
    (
        "source ports over the listeners", host.each_setting_of_the_host_has_its_reason, SYSCTL, "= 10240 65535",
        "= 1024 65535", "1024",
    ),
    (
        "a metric that is not there", host.runbooks_name_what_is_there, RUNBOOK, "`corelane_router_",
        "`corelane_routers_", "corelane_routers_",
    ),
    (
        "a runbook without its remedy", host.runbooks_name_what_is_there, RUNBOOK, "## What to do", "## Then",
        "What to do",
    ),
)


def problems(tree):
    """What the checks did not notice."""
    for name, check, path, old, new, words in (*IN_KUBERNETES, *IN_COMPOSE, *IN_HOST):
        found = list(check(tree.changed(path, old, new)))
        if not any(words in problem for problem in found):
            yield f"{name} ({path}) is not noticed by {check.__name__}; it says {found}"
