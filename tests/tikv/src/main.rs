//! Runs one test store as a process. When its clients can use it, it prints one line with its addresses:
//! `ready store=127.0.0.1:20160 pd=127.0.0.1:2379 control=127.0.0.1:20180`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Parser};
use corelane_tikv_test_store::{Options, Pd, TestStore, WrongKey, parse_key};
use tokio::signal::unix::{SignalKind, signal};

/// A store for tests that speaks TiKV's gRPC protocol. It is not TiKV.
#[derive(Parser)]
#[command(name = "corelane-tikv-test-store", version)]
#[command(group = ArgGroup::new("placement").required(true))]
struct Arguments {
    /// Folder of the log
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// TiKV's service; told to PD as it is, so a port of 0 is fine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Control port (HTTP): faults, freezing, splits, status
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// Join the real PD there
    #[arg(long, value_name = "HOST:PORT", group = "placement")]
    pd: Option<String>,
    /// Serve PD's calls here instead
    #[arg(long, value_name = "ADDRESS", group = "placement")]
    serve_pd: Option<SocketAddr>,
    /// Keys at which regions begin, other bytes than printable ones as \xNN; two make three regions
    #[arg(long, value_name = "KEY", value_parser = key, num_args = 1, default_values = ["\\x00\\x03", "\\x00\\x06"])]
    split: Vec<Key>,
}

/// A `Vec` of its own would be taken for several values.
#[derive(Clone)]
struct Key(Vec<u8>);

fn key(text: &str) -> Result<Key, WrongKey> {
    parse_key(text).map(Key)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &*error, "cannot run");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let Arguments {
        data,
        listen,
        control,
        pd,
        serve_pd,
        split,
    } = arguments;
    let pd = match (pd, serve_pd) {
        (Some(endpoint), _) => Pd::Join(endpoint),
        (None, Some(address)) => Pd::Serve(address),
        (None, None) => return Err("either --pd or --serve-pd".into()),
    };
    let splits = split.into_iter().map(|key| key.0).collect();
    let store = TestStore::start(Options {
        folder: data,
        listen,
        control,
        pd,
        splits,
    })
    .await?;
    writeln!(
        std::io::stdout(),
        "ready store={} pd={} control={}",
        store.store_address(),
        store.pd_address(),
        store.control_address()
    )?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
