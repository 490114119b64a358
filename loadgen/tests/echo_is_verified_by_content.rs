//! `echo` against servers in this process: a faithful one passes, and each planted fault is found.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use clap::Parser as _;
use corelane_loadgen::cli::Options;
use corelane_loadgen::report::{Report, Verdict};
use corelane_loadgen::run::{RunError, run};
use tungstenite::{Message, WebSocket};

/// What a server does with the 50th message of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Drop,
    Double,
    Swap,
    Change,
    /// From the 350th on it is always 20 messages behind.
    FallBehind,
}

fn serve(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || {
                if let Ok(mut socket) = tungstenite::accept(stream) {
                    // The client ends the connection; how does not matter here.
                    drop(echo(&mut socket, fault));
                }
            });
        }
    });
    address
}

fn echo(socket: &mut WebSocket<TcpStream>, fault: Fault) -> tungstenite::Result<()> {
    let mut held = None;
    let mut behind = VecDeque::new();
    let mut count = 0;
    loop {
        let message = socket.read()?;
        if !(message.is_text() || message.is_binary()) {
            socket.flush()?;
            continue;
        }
        count += 1;
        match fault {
            Fault::Drop if count == 50 => {}
            Fault::Double if count == 50 => {
                socket.send(message.clone())?;
                socket.send(message)?;
            }
            Fault::Swap if count == 50 => held = Some(message),
            Fault::FallBehind if count >= 350 => {
                behind.push_back(message);
                if behind.len() > 20
                    && let Some(message) = behind.pop_front()
                {
                    socket.send(message)?;
                }
            }
            Fault::Change if count == 50 => {
                let mut bytes = message.into_data().to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                socket.send(Message::binary(bytes))?;
            }
            _ => {
                socket.send(message)?;
                if let Some(held) = held.take() {
                    socket.send(held)?;
                }
            }
        }
    }
}

fn measure(address: SocketAddr, more: &[&str]) -> Result<Report, RunError> {
    let url = format!("ws://{address}/");
    let args = [
        "corelane-loadgen",
        "echo",
        &url,
        "-c",
        "4",
        "-r",
        "2k/s",
        "-d",
        "1s",
        "-w",
        "200ms",
        "--drain",
        "1s",
        "-q",
    ];
    run(Options::try_parse_from(args.iter().copied().chain(more.iter().copied())).unwrap())
}

#[test]
fn a_faithful_server_passes() {
    for more in [
        &["-s", "512"][..],
        &["-s", "300", "--text", "--threads", "2", "--arrivals", "poisson"],
    ] {
        let report = measure(serve(Fault::None), more).unwrap();
        assert_eq!(report.broken, [""; 0], "{}", report.text());
        assert_eq!(report.delivered, report.sent, "{}", report.text());
        assert!(
            report.sent > 2_000 && report.latency_us.due_to_delivery.count > 1_500,
            "{}",
            report.text()
        );
        // The machine may be busy; then the run is void and says why.
        assert!(
            matches!(report.verdict, Verdict::Pass | Verdict::Void),
            "{}",
            report.text()
        );
        assert_eq!(report.void, report.void_reason.is_some());
    }
}

#[test]
fn a_dropped_reply_is_lost() {
    let report = measure(serve(Fault::Drop), &[]).unwrap();
    assert_eq!((report.lost, report.exit_code), (4, 4), "{}", report.text());
}

#[test]
fn a_doubled_reply_is_found() {
    let report = measure(serve(Fault::Double), &[]).unwrap();
    assert_eq!((report.duplicated, report.exit_code), (4, 4), "{}", report.text());
}

#[test]
fn a_swapped_reply_is_found() {
    let report = measure(serve(Fault::Swap), &[]).unwrap();
    assert_eq!(
        (report.reordered, report.lost, report.exit_code),
        (4, 0, 4),
        "{}",
        report.text()
    );
}

#[test]
fn a_changed_reply_is_found() {
    let report = measure(serve(Fault::Change), &[]).unwrap();
    assert_eq!(
        (report.counters.corrupt, report.exit_code),
        (4, 4),
        "{}",
        report.text()
    );
}

#[test]
fn a_server_that_falls_behind_shows_in_the_second_half() {
    let report = measure(
        serve(Fault::FallBehind),
        &["--threshold", "second_half_ratio<=1.2"],
    )
    .unwrap();
    let halves = report.halves;
    assert!(halves.second.p50 > halves.first.p50, "{}", report.text());
    assert!(halves.p50_ratio > Some(1.2), "{}", report.text());
    assert!(!report.thresholds[0].ok, "{}", report.text());
    let of_faithful = measure(serve(Fault::None), &["--threshold", "second_half_ratio<=1000"]).unwrap();
    assert!(of_faithful.thresholds[0].ok, "{}", of_faithful.text());
}

#[test]
fn connections_are_spread_over_targets_and_go_to_the_next_one() {
    let (one, other) = (serve(Fault::None), serve(Fault::None));
    let url = format!("ws://{other}/");
    let report = measure(one, &[&url, "--threads", "2"]).unwrap();
    assert_eq!(report.broken, [""; 0], "{}", report.text());
    let spread: Vec<u64> = report.targets.iter().map(|target| target.connections).collect();
    assert_eq!((spread, report.delivered), (vec![2, 2], report.sent));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("ws://{nobody}/");
    let error = measure(one, &[&url]).unwrap_err();
    assert!(error.to_string().contains(&url), "{error}");
}

#[test]
fn files_and_thresholds() {
    let dir = tempfile::tempdir().unwrap();
    let (json, hlog) = (dir.path().join("out.json"), dir.path().join("out.hlog"));
    let pid = std::process::id().to_string();
    let probe = dir.path().to_str().unwrap();
    let more = [
        "--threshold",
        "deliver.p50<1us",
        "--json",
        json.to_str().unwrap(),
        "--hlog",
        hlog.to_str().unwrap(),
        "--target-pid",
        &pid,
        "--fsync-probe",
        probe,
        "--wake-probe",
        "--seed",
        "5",
    ];
    let report = measure(serve(Fault::None), &more).unwrap();
    assert!(
        matches!(report.verdict, Verdict::Threshold | Verdict::Void),
        "{}",
        report.text()
    );
    assert!(report.problems.is_empty(), "{}", report.text());
    let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let schema: serde_json::Value = serde_json::from_str(include_str!("../schema.json")).unwrap();
    for name in schema["required"].as_array().unwrap() {
        assert!(written.get(name.as_str().unwrap()).is_some(), "{name} is missing");
    }
    for name in written.as_object().unwrap().keys() {
        assert!(
            schema["properties"].get(name).is_some(),
            "{name} is not in the schema"
        );
    }
    assert_eq!(written["seed"], 5);
    for series in ["due_to_ack", "due_to_delivery", "sent_to_delivery"] {
        let figures = ["p50", "p90", "p99", "p999", "max"].map(|name| {
            let figure = &written["latency_us"][series][name];
            figure
                .as_u64()
                .unwrap_or_else(|| panic!("latency_us.{series}.{name} is no number: {figure}"))
        });
        assert!(figures.is_sorted(), "{series}: {figures:?}");
    }
    for series in ["due_to_delivery", "sent_to_delivery"] {
        assert!(
            written["latency_us"][series]["p50"].as_u64() > Some(0),
            "{series}"
        );
    }
    assert!(
        written["target_cpu_us_per_message"].as_f64() > Some(0.0),
        "{}",
        report.text()
    );
    assert!(written["fsync_probe_us"]["count"].as_u64() > Some(0));
    assert!(written["wake_probe_us"]["count"].as_u64() > Some(0));
    assert!(written["target_rss_bytes"].as_u64() > Some(0));
    let log = std::fs::read(&hlog).unwrap();
    let lines = hdrhistogram::serialization::interval_log::IntervalLogIterator::new(&log).count();
    assert!(lines > 3, "{lines} lines");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        2,
        "the probe's file is gone"
    );
}

#[test]
fn a_server_that_is_not_there_or_speaks_no_websocket_is_unreachable() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(matches!(measure(free, &[]), Err(RunError::Target(_))));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            match stream.read(&mut request) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {}
                _ => drop(stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")),
            }
        }
    });
    let error = measure(address, &["--connect-timeout", "500ms"]).unwrap_err();
    assert!(
        matches!(error, RunError::Connections { connected: 0, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("404"), "{error}");
}
