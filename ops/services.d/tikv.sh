# The real PD, and the test store of tests/tikv in TiKV's place, with three regions.
# Ports: 2379 PD (clients), 2380 PD (peers), 2160 the store, 2180 its control port.
# shellcheck shell=bash disable=SC2154 # $state, $cache, $root and $target are given by ops/services

tikv_ready_seconds=60
tikv_pd=127.0.0.1:2379
tikv_pd_peer=127.0.0.1:2380
tikv_store=127.0.0.1:2160
tikv_control=127.0.0.1:2180

# PD takes two minutes to build, once. The store is built as ops/test builds all programs, so that it is built once.
tikv_install() {
    need curl curl
    command -v go >/dev/null 2>&1 || { echo "PD is a Go program: install Go 1.24 or newer"; return 1; }
    if [ ! -e "$cache/pd-server" ] || [ tests/tikv/pd/go.mod -nt "$cache/pd-server" ]; then
        (cd tests/tikv/pd && go build -tags without_dashboard -o "$cache/pd-server.new" github.com/tikv/pd/cmd/pd-server)
        mv "$cache/pd-server.new" "$cache/pd-server"
    fi
    cargo build --profile ci --workspace --features corelane-router/kafka-tls --test golden --bin corelane-tikv-test-store
}

tikv_start() {
    # The etcd in it registers a path with a blank, which Go's router refuses since 1.22.
    start_process tikv-pd env GODEBUG=httpmuxgo121=1 "$cache/pd-server" --config tests/tikv/pd/pd.toml --name pd --data-dir "$state/pd" \
        --client-urls "http://$tikv_pd" --peer-urls "http://$tikv_pd_peer" \
        --initial-cluster "pd=http://$tikv_pd_peer"
    # The store waits for PD by itself.
    start_process tikv-store "$target/ci/corelane-tikv-test-store" --data "$state/store" --listen "$tikv_store" \
        --control "$tikv_control" --pd "$tikv_pd"
}

# The store says so once PD gives out timestamps and sends clients to each of its regions.
tikv_ready() {
    process_lives tikv-pd && process_lives tikv-store
    curl -fsS --max-time 2 -o /dev/null "http://$tikv_control/ready"
}

tikv_stop() {
    stop_process tikv-store
    stop_process tikv-pd
}

tikv_address() {
    echo "CORELANE_TEST_PD=$tikv_pd"
    echo "CORELANE_TEST_TIKV_CONTROL=$tikv_control"
}
