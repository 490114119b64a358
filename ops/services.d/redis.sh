# Redis from Debian's package: one node by itself (plain and TLS) and a cluster of three masters, no data on disk.
# Ports: 6390 single, 6394 single over TLS; 6391 6392 6393 the cluster's nodes, 6395 6396 6397 their bus.
# shellcheck shell=bash disable=SC2154 # $state and $cache are given by ops/services

redis_ready_seconds=30
redis_nodes=(6391 6392 6393)

redis_install() {
    need redis-server redis-server
    need redis-cli redis-tools
    need openssl openssl
    [ -e "$cache/server.crt" ] || redis_certificates
}

# A certificate for the name redis.corelane.test, and the authority that signed it.
redis_certificates() {
    local made="$cache/made"
    rm -rf "$made" && mkdir -p "$made"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=Corelane test CA" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
        -keyout "$made/ca.key" -out "$made/ca.crt"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=redis.corelane.test" \
        -keyout "$made/server.key" -out "$made/server.csr"
    openssl x509 -req -in "$made/server.csr" -CA "$made/ca.crt" -CAkey "$made/ca.key" -CAcreateserial -days 3650 \
        -extfile <(echo "subjectAltName=DNS:redis.corelane.test") -out "$made/server.crt"
    mv "$made"/ca.crt "$made"/server.key "$cache/"
    mv "$made"/server.crt "$cache/"
    rm -rf "$made"
}

redis_start() {
    local port bus_port=6395
    redis_node redis-single 6390 --tls-port 6394 --tls-auth-clients no --tls-ca-cert-file "$cache/ca.crt" \
        --tls-cert-file "$cache/server.crt" --tls-key-file "$cache/server.key"
    for port in "${redis_nodes[@]}"; do
        redis_node "redis-$port" "$port" --cluster-enabled yes --cluster-port "$bus_port" --cluster-node-timeout 5000
        bus_port=$((bus_port + 1))
    done
}

redis_node() { # label port option...
    local label=$1 port=$2
    shift 2
    mkdir -p "$state/$label"
    start_process "$label" redis-server --port "$port" --bind 127.0.0.1 --dir "$state/$label" --save '' \
        --appendonly no --maxmemory-policy noeviction "$@"
}

redis_ready() {
    local port
    process_lives redis-single && [ "$(redis-cli -p 6390 ping)" = PONG ]
    for port in "${redis_nodes[@]}"; do
        process_lives "redis-$port" && [ "$(redis-cli -p "$port" ping)" = PONG ]
    done
    [ -e "$state/clustered" ] || redis_make_cluster
    for port in "${redis_nodes[@]}"; do
        redis-cli -p "$port" cluster info | grep -q '^cluster_state:ok'
        [ "$(redis-cli -p "$port" cluster nodes | grep -c ' connected ')" = ${#redis_nodes[@]} ]
    done
}

# A third of the slots each. Made once; the nodes then find together within a second or two.
redis_make_cluster() {
    redis-cli -p 6391 cluster addslotsrange 0 5460
    redis-cli -p 6392 cluster addslotsrange 5461 10922
    redis-cli -p 6393 cluster addslotsrange 10923 16383
    redis-cli -p 6391 cluster meet 127.0.0.1 6392 6396
    redis-cli -p 6391 cluster meet 127.0.0.1 6393 6397
    touch "$state/clustered"
}

redis_stop() {
    local port
    for port in "${redis_nodes[@]}"; do stop_process "redis-$port"; done
    stop_process redis-single
}

redis_address() {
    echo "CORELANE_TEST_REDIS=redis://127.0.0.1:6390"
    echo "CORELANE_TEST_REDIS_CLUSTER=redis-cluster://127.0.0.1:6391?node=127.0.0.1:6392&node=127.0.0.1:6393"
    echo "CORELANE_TEST_REDIS_TLS=rediss://127.0.0.1:6394"
    echo "CORELANE_TEST_REDIS_CA=$cache/ca.crt"
}
