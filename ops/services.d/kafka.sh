# Apache Kafka 4.4 (KRaft, one node) from Maven: plain, and over TLS with a user.
# Ports: 9092 plain; 9094 TLS and SASL (user corelane, password corelane-test; PLAIN, SCRAM-SHA-512); 9093 controller.
# shellcheck shell=bash disable=SC2154 # $state, $cache and $logs are given by ops/services

kafka_ready_seconds=60
kafka_version=4.4.0

kafka_install() {
    need java openjdk-17-jre-headless
    need openssl openssl
    [ -e "$cache/$kafka_version/lib" ] || kafka_jars
    [ -e "$cache/broker.pem" ] || kafka_certificates
}

# The broker and all it depends on. Its slf4j is 1.7, and so must be what it logs by.
kafka_jars() {
    need mvn maven
    local made="$cache/made"
    rm -rf "$made" && mkdir -p "$made"
    cat >"$made/pom.xml" <<EOF
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>corelane</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version>
    </dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
EOF
    (cd "$made" && mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory=lib)
    rm -rf "${cache:?}/$kafka_version" && mv "$made" "$cache/$kafka_version"
}

# A certificate for the name localhost (and not for 127.0.0.1), and the authority that signed it.
kafka_certificates() {
    local made="$cache/certificates"
    rm -rf "$made" && mkdir -p "$made"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=Corelane test CA" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign \
        -keyout "$made/ca.key" -out "$made/ca.crt"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=localhost" \
        -keyout "$made/broker.key" -out "$made/broker.csr"
    openssl x509 -req -in "$made/broker.csr" -CA "$made/ca.crt" -CAkey "$made/ca.key" -CAcreateserial -days 3650 \
        -extfile <(echo "subjectAltName=DNS:localhost") -out "$made/broker.crt"
    mv "$made/ca.crt" "$cache/"
    cat "$made/broker.key" "$made/broker.crt" "$cache/ca.crt" >"$cache/broker.pem"
    rm -rf "$made"
}

kafka_properties() {
    cat <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:9093
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:9092,SASL_SSL://127.0.0.1:9094,CONTROLLER://127.0.0.1:9093
advertised.listeners=PLAINTEXT://127.0.0.1:9092,SASL_SSL://localhost:9094
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=$state/data

sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_corelane="corelane-test";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=$cache/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$cache/ca.crt

auto.create.topics.enable=false
# One node, a small heap, and a quick return after SIGKILL (with the default session, 9 s, it waits 11 s).
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.cleaner.dedupe.buffer.size=2097152
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
EOF
}

kafka_start() {
    local properties="$state/server.properties"
    local lib="$cache/$kafka_version/lib/*"
    if [ ! -e "$properties" ]; then
        kafka_properties >"$properties.new"
        java -cp "$lib" kafka.tools.StorageTool format --standalone --ignore-formatted -t CorelaneTestCluster000 \
            --add-scram 'SCRAM-SHA-512=[name=corelane,password=corelane-test]' -c "$properties.new"
        mv "$properties.new" "$properties"
    fi
    start_process kafka java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$lib" kafka.Kafka "$properties"
}

# The port opens before the broker works: ready is who answers a Metadata request (version 4) with a broker.
kafka_ready() {
    process_lives kafka
    local answer
    exec 3<>/dev/tcp/127.0.0.1/9092
    printf '\x00\x00\x00\x0f\x00\x03\x00\x04\x00\x00\x00\x01\xff\xff\x00\x00\x00\x00\x00' >&3
    # Length, correlation, throttle time, number of brokers: four bytes each.
    answer=$(timeout 5 head -c 16 <&3 | od -An -tx1 | tr -d ' \n')
    exec 3>&-
    echo "metadata: $answer"
    [ "${answer:24:8}" = 00000001 ]
}

kafka_stop() { stop_process kafka; }

kafka_address() {
    echo "CORELANE_TEST_KAFKA=127.0.0.1:9092"
    echo "CORELANE_TEST_KAFKA_TLS=localhost:9094"
    echo "CORELANE_TEST_KAFKA_CA=$cache/ca.crt"
    # Where a test finds what to start a broker of its own from.
    echo "CORELANE_TEST_KAFKA_LIB=$cache/$kafka_version/lib"
}
