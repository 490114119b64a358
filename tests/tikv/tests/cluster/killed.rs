//! The store as a process, killed with SIGKILL.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tikv_client::TransactionClient;

use crate::harness::{connect, eventually, get, key, put, settled, try_begin};

/// A running store process; killed when dropped.
struct Process {
    child: Child,
    pd: String,
    control: String,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_corelane-tikv-test-store"))
            .args(["--serve-pd", "127.0.0.1:0", "--data"])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let field = |name: &str| {
            let value = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value
                .unwrap_or_else(|| panic!("no {name} in {line:?}"))
                .to_owned()
        };
        Self {
            pd: field("pd"),
            control: field("control"),
            child,
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn post(&self, what: &str) {
        ureq::post(format!("http://{}/{what}", self.control))
            .send_empty()
            .unwrap();
    }

    fn status(&self) -> Value {
        let mut answer = ureq::get(format!("http://{}/status", self.control))
            .call()
            .unwrap();
        answer.body_mut().read_json().unwrap()
    }

    async fn client(&self) -> TransactionClient {
        connect(&self.pd, Duration::from_secs(2)).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_store_comes_back_with_its_data_its_locks_and_its_regions() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path());
    let client = process.client().await;
    put(&client, &[key(0, "a"), key(2, "a")], "value").await.unwrap();
    process.post("split?at=%5Cx00%5Cx01m");
    process.post("fault?do=refuse&on=commit");
    put(&client, &[key(0, "b"), key(1, "b")], "of the dead")
        .await
        .unwrap_err();
    let before = process.status();
    assert!(before["locks"].as_u64().unwrap() >= 2, "{before}");
    let regions = before["regions"].clone();
    assert_eq!(regions.as_array().unwrap().len(), 4);
    process.kill();

    let process = Process::start(folder.path());
    let after = process.status();
    for what in ["keys", "locks", "regions", "cluster_id"] {
        assert_eq!(after[what], before[what], "{what}");
    }
    let client = process.client().await;
    assert_eq!(settled(&client, &key(2, "a")).await.as_deref(), Some("value"));
    assert_eq!(settled(&client, &key(0, "b")).await, None);
}

/// Commits numbered transactions over two regions, counting those that succeeded, until one fails.
async fn write_until_it_fails(client: TransactionClient, writer: usize, committed: Arc<AtomicUsize>) {
    for index in 0.. {
        let name = format!("{writer}/{index}");
        let write = async {
            let mut txn = try_begin(&client).await?;
            txn.insert(key(0, &name), "value").await?;
            txn.insert(key(2, &name), "value").await?;
            txn.commit().await
        };
        if write.await.is_err() {
            return;
        }
        committed.store(index + 1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_killed_under_load_has_lost_nothing_that_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let process = Process::start(folder.path());
        let client = process.client().await;
        let counts: Vec<_> = (0..4).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let start = |(writer, count): (usize, &Arc<AtomicUsize>)| {
            tokio::spawn(write_until_it_fails(
                client.clone(),
                round * 10 + writer,
                count.clone(),
            ))
        };
        let writers: Vec<_> = counts.iter().enumerate().map(start).collect();
        let total = || {
            counts
                .iter()
                .map(|count| count.load(Ordering::SeqCst))
                .sum::<usize>()
        };
        eventually("enough is committed", async || (total() > 100).then_some(())).await;
        // Counted before the kill: the client may call a commit that reached nobody a success.
        let acknowledged: Vec<usize> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        process.kill();
        writers.iter().for_each(tokio::task::JoinHandle::abort);

        let process = Process::start(folder.path());
        let client = process.client().await;
        for (writer, count) in acknowledged.into_iter().enumerate() {
            for index in 0..count {
                let name = format!("{}/{index}", round * 10 + writer);
                for key in [key(0, &name), key(2, &name)] {
                    assert_eq!(
                        get(&client, &key).await.unwrap().as_deref(),
                        Some("value"),
                        "{name}"
                    );
                }
            }
        }
        process.kill();
    }
}
