"""The image, the seccomp profile, the host's settings and the runbooks: what they name must be what the code has."""

import http.server
import os
import re
import subprocess
import tempfile
import threading

from .tree import ROOT, image_problems

RINGS = {"io_uring_enter", "io_uring_register", "io_uring_setup"}
# What a container without capabilities must not get: a filter is there for these.
NEVER = {"add_key", "bpf", "delete_module", "init_module", "kexec_load", "keyctl", "mount", "perf_event_open"}
NEVER |= {"pivot_root", "reboot", "request_key", "setns", "swapon", "umount2", "unshare", "userfaultfd"}
OCI_RULE = {"action", "args", "comment", "errnoRet", "names"}


def the_image_is_built_from_what_is_there(tree):
    dockerfile = tree.text("ops/Dockerfile")
    toolchain = tree.toml("rust-toolchain.toml")["toolchain"]["channel"]
    for image in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE):
        yield from image_problems("ops/Dockerfile", image, tree.version)
        if image.startswith("rust:") and not image.startswith(f"rust:{toolchain}-"):
            yield f"ops/Dockerfile: {image}, but rust-toolchain.toml says {toolchain}"
    if not re.search(r"^STOPSIGNAL SIGTERM$", dockerfile, re.MULTILINE):
        yield "ops/Dockerfile: STOPSIGNAL is not SIGTERM, which begins a drain"
    exposed = set(map(int, re.search(r"^EXPOSE (.+)$", dockerfile, re.MULTILINE)[1].split()))
    ports = {tree.gateway.port("gateway", "listen"), tree.gateway.port("admin", "listen")}
    ports |= {tree.router.port("router", "link_listen"), tree.router.port("router", "http_listen")}
    if exposed != ports:
        yield f"ops/Dockerfile: it exposes {sorted(exposed)}, the configuration listens on {sorted(ports)}"
    for config in (tree.gateway, tree.router):
        if config.get("store", "data_dir") not in dockerfile:
            yield f"ops/Dockerfile: it does not make store.data_dir {config.get('store', 'data_dir')}"


def the_build_gets_what_it_needs(tree):
    """Whatever .dockerignore leaves out is not there for the build."""
    let_in = set(re.findall(r"^!(\S+)$", tree.text("ops/Dockerfile.dockerignore"), re.MULTILINE))
    members = tree.toml("Cargo.toml")["workspace"]["members"]
    needed = {"Cargo.toml", "Cargo.lock", ".cargo"} | {member.split("/")[0] for member in members}
    for copied in re.findall(r"^COPY ([^-].*) \S+$", tree.text("ops/Dockerfile"), re.MULTILINE):
        needed |= {"ops/image" for path in copied.split() if path.startswith("ops/image/")}
        for path in copied.split():
            if not tree.exists(path):
                yield f"ops/Dockerfile: it copies {path}, which is not there"
    for path in needed - let_in:
        yield f"ops/Dockerfile.dockerignore: it leaves out {path}"


def the_programs_of_the_image_do_their_work(_tree):
    image = ROOT / "ops" / "image"
    with tempfile.TemporaryDirectory() as secrets, tempfile.TemporaryDirectory() as data:
        environment = {**os.environ, "SECRETS_DIR": secrets, "DATA_DIR": data}
        start = [image / "entrypoint", "ls", data]
        if subprocess.run(start, env=environment, capture_output=True, check=False).returncode == 0:
            yield "entrypoint: it starts without keys"
        subprocess.run([image / "make-keys", secrets], check=True)
        made = {name: open(os.path.join(secrets, name), encoding="ascii").read() for name in os.listdir(secrets)}
        if sorted(made) != ["admin.key", "link.key", "token.key"] or len(set(made.values())) != 3:
            yield f"make-keys: it made {sorted(made)}"
        if not all(re.fullmatch(r"[0-9a-f]{64}\n?", key) for key in made.values()):
            yield "make-keys: it made something that is no key"
        subprocess.run([image / "make-keys", secrets], check=True)
        if open(os.path.join(secrets, "link.key"), encoding="ascii").read() != made["link.key"]:
            yield "make-keys: it made a key again"
        for name in made:
            os.chmod(os.path.join(secrets, name), 0o440)
        # Twice, as when a container is started again.
        for _ in range(2):
            done = subprocess.run(start, env=environment, capture_output=True, text=True, check=False)
            if done.stdout.split() != sorted(made):
                yield f"entrypoint: {done.stdout} {done.stderr}"
        modes = {os.stat(os.path.join(data, name)).st_mode & 0o777 for name in os.listdir(data)}
        if modes != {0o400}:
            yield f"entrypoint: modes {[oct(mode) for mode in modes]}; the programs refuse keys that others may read"


def the_probe_tells_ready_from_not_ready(_tree):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/readyz" else 503)
            self.end_headers()

        def log_message(self, *_):
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    probe, port = ROOT / "ops" / "image" / "probe", server.server_port
    expected = {"/readyz": 0, "/other": 1}
    for path, status in expected.items():
        done = subprocess.run([probe, str(port), path], capture_output=True, check=False)
        if done.returncode != status:
            yield f"probe: status {done.returncode} for {path}, not {status}"
    server.shutdown()
    server.server_close()
    if subprocess.run([probe, str(port), "/readyz"], capture_output=True, check=False).returncode == 0:
        yield "probe: status 0 where nothing listens"


def the_seccomp_profile_allows_rings_and_nothing_else_new(tree):
    path = "ops/seccomp/corelane.json"
    profile = tree.json(path)
    if profile.keys() != {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}:
        yield f"{path}: keys that containerd would ignore, or some are missing: {sorted(profile)}"
    if profile["defaultAction"] != "SCMP_ACT_ERRNO":
        yield f"{path}: it is no allow-list"
    allowed, seen = set(), set()
    for rule in profile["syscalls"]:
        if not rule.keys() <= OCI_RULE:
            yield f"{path}: conditions that containerd would ignore: {sorted(rule.keys() - OCI_RULE)}"
        key = {(name, str(rule.get("args"))) for name in rule["names"]}
        for name, _ in key & seen:
            yield f"{path}: {name} is there twice"
        seen |= key
        if rule["action"] == "SCMP_ACT_ALLOW":
            allowed |= set(rule["names"])
    for name in RINGS - allowed:
        yield f"{path}: {name} is not allowed"
    for name in NEVER & allowed:
        yield f"{path}: {name} is allowed"
    named = tree.text("net/src/error.rs")
    if path not in named:
        yield f"net/src/error.rs: what tells of a blocked io_uring does not name {path}"


def each_setting_of_the_host_has_its_reason(tree):
    path = "ops/host/90-corelane.conf"
    before = ""
    for line in tree.text(path).splitlines():
        if line and not line.startswith("#"):
            if not re.fullmatch(r"[a-z_0-9.]+ = [0-9 ]+", line):
                yield f"{path}: {line!r} is no setting"
            if not before.startswith("#"):
                yield f"{path}: {line!r} has no reason before it"
        before = line
    low = int(re.search(r"^net.ipv4.ip_local_port_range = (\d+) ", tree.text(path), re.MULTILINE)[1])
    ports = [tree.gateway.port("gateway", "listen"), tree.gateway.port("admin", "listen")]
    ports += [tree.router.port("router", "link_listen"), tree.router.port("router", "http_listen")]
    if max(ports) >= low:
        yield f"{path}: source ports from {low} on take those that are listened on, {ports}"
    has = int(re.search(r"^    TimeoutStopSec=(\d+)$", tree.text("ops/host/README.md"), re.MULTILINE)[1])
    needs = tree.gateway.get("gateway", "drain_ms") / 1000 + tree.seconds("gateway/src/process.rs", "DRAIN_GRACE")
    if has <= needs:
        yield f"ops/host/README.md: TimeoutStopSec={has} cuts off a drain that takes {needs} s"


def metric_names(tree):
    """Every metric of the code."""
    rows = re.findall(r"^    (gauge|counter) (\w+);$", tree.text("gateway/core/src/metrics.rs"), re.MULTILINE)
    names = {f"corelane_gateway_{name}{'' if kind == 'gauge' else '_total'}" for kind, name in rows}
    rows = re.search(r"const ENGINE_ROWS.*?\];", tree.text("gateway/src/admin.rs"), re.DOTALL)[0]
    names |= {f"corelane_net_{name}" for name in re.findall(r'\(\s*"(\w+)"', rows)}
    sources = [*tree.files("router/src", ".rs", deep=True), *tree.files("gateway/src", ".rs", deep=True)]
    plain = {name for path in sources for name in re.findall(r'"(corelane_\w+)', tree.text(path))}
    return names | plain | {f"{name}{suffix}" for name in plain for suffix in ("_bucket", "_count", "_sum")}


def runbooks_name_what_is_there(tree):
    metrics = metric_names(tree)
    for path in tree.files("ops/runbooks", ".md"):
        text = tree.text(path)
        for name in sorted(set(re.findall(r"\bcorelane_\w+", text)) - metrics):
            yield f"{path}: no metric is called {name}"
        for linked in re.findall(r"`((?:ops|gateway|router|net|tests)/[\w./-]+)`", text):
            if not tree.exists(linked):
                yield f"{path}: {linked} is not there"
        for part in ("What users see", "What recovers by itself", "What shows it", "What to do"):
            if not path.endswith("README.md") and f"\n## {part}\n" not in text:
                yield f"{path}: it has no part {part!r}"


CHECKS = (
    the_image_is_built_from_what_is_there,
    the_build_gets_what_it_needs,
    the_programs_of_the_image_do_their_work,
    the_probe_tells_ready_from_not_ready,
    the_seccomp_profile_allows_rings_and_nothing_else_new,
    each_setting_of_the_host_has_its_reason,
    runbooks_name_what_is_there,
)
