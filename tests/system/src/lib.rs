//! Starts the shipped programs for tests and stops them again: real processes, sockets and files.
//!
//! The binaries are taken from `CORELANE_BIN_DIR` (set by `ops/test`) or from the directory that the test itself was
//! built into. A test that finds none fails and says what to build.
//!
//! What a program writes on standard error is kept, and is shown where the test fails. A test whose program panicked
//! fails, whatever else it saw: a panic of a request or of one link's task ends no process, and shows nowhere else.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(20);
/// How a program begins to say that a thread of it panicked.
const PANIC: &str = "panicked at";

/// The moment, for deadlines of tests.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the tests that reads the clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Waits until `condition` gives a value.
///
/// # Panics
///
/// When `limit` has passed, naming `what`.
#[expect(clippy::disallowed_methods, reason = "waits for a condition with a deadline")]
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(now() < deadline, "{what} did not happen within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Path of a shipped binary.
///
/// # Panics
///
/// If it was not built.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("CORELANE_BIN_DIR").map_or_else(
        || {
            let test = std::env::current_exe().expect("a test knows its own path");
            test.parent()
                .and_then(Path::parent)
                .expect("tests lie in target/PROFILE/deps")
                .to_owned()
        },
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is missing: build it with `cargo build --profile ci --workspace --bins`",
        path.display()
    );
    path
}

/// A program that runs, and ends with this value.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    log: NamedTempFile,
}

impl Running {
    /// Starts a program whose standard output is read line by line, and whose standard error is kept ([`Self::log`]).
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let log = NamedTempFile::new().expect("a file for its log");
        let to_log = log.reopen().expect("the file is there");
        let mut child = spawn(command.stdout(Stdio::piped()).stderr(to_log));
        let output = child.stdout.take().expect("standard output is piped");
        Self {
            child,
            lines: lines_of(output),
            log,
        }
    }

    /// What it has written on standard error so far.
    ///
    /// # Panics
    ///
    /// If that cannot be read.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log.path()).expect("the file of its log is ours");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The rest of what it writes on standard output, once it has closed that.
    pub fn rest(&self) -> String {
        self.lines.iter().map(|line| line + "\n").collect()
    }

    /// The first line of output that begins with `prefix`.
    ///
    /// # Panics
    ///
    /// If the program ends before, or takes longer than 20 s.
    pub fn line(&mut self, prefix: &str) -> String {
        let deadline = now() + READY;
        loop {
            let left = deadline.saturating_duration_since(now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.starts_with(prefix) => return line,
                Ok(_) => {}
                Err(error) => panic!(
                    "no line {prefix:?}: {error}; the program: {:?}",
                    self.child.try_wait()
                ),
            }
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many descriptors it has open.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("the program runs")
            .count()
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// A signal, by name: `STOP` has the process stand still, `CONT` go on.
    ///
    /// # Panics
    ///
    /// If the process is gone.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "no {name} was sent");
    }

    /// Waits for its end; the exit code, or `None` after a signal.
    ///
    /// # Panics
    ///
    /// If it does not end within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        wait_for("the end of the program", limit, || self.ended())
    }

    /// The exit code, or `None` in its place after a signal; `None` while it runs.
    ///
    /// # Panics
    ///
    /// If it was waited for by somebody else.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        let status = self.child.try_wait().expect("it is our child")?;
        Some(status.code())
    }
}

/// Ends the program, shows its log and looks through it.
impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        // Of a test that has failed another panic would end the whole run.
        if std::thread::panicking() {
            let log = std::fs::read(self.log.path()).unwrap_or_default();
            eprint!("{}", String::from_utf8_lossy(&log));
            return;
        }
        let log = self.log();
        eprint!("{log}");
        assert!(!log.contains(PANIC), "the program panicked: {log}");
    }
}

/// A port of 127.0.0.1 that is free now and stays so while nobody listens on it: below every range that connections get
/// theirs from.
///
/// # Panics
///
/// Never: all of them are below 10,000.
pub fn free_port() -> u16 {
    const FIRST: u32 = 2_000;
    const COUNT: u32 = 8_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let at = std::process::id().wrapping_mul(61) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + at % COUNT).expect("below 10,000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Ports that stay the same over the lives of what listens on them.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    ws: u16,
    http: u16,
    link: u16,
    admin: u16,
}

impl Ports {
    /// Four that are free.
    pub fn find() -> Self {
        Self {
            ws: free_port(),
            http: free_port(),
            link: free_port(),
            admin: free_port(),
        }
    }
}

/// A router in a process of its own.
#[derive(Debug)]
pub struct Router {
    /// The process.
    pub process: Running,
    /// Base URL of its HTTP API and metrics.
    pub http: String,
}

impl Router {
    /// Starts one with its data in `data`.
    ///
    /// # Panics
    ///
    /// If it is not ready in time.
    pub fn start(data: &Path, ports: &Ports) -> Self {
        let mut command = Command::new(binary("corelane-router"));
        command
            .env("CORELANE__STORE__DATA_DIR", data)
            .env(
                "CORELANE__ROUTER__HTTP_LISTEN",
                format!("127.0.0.1:{}", ports.http),
            )
            .env(
                "CORELANE__ROUTER__LINK_LISTEN",
                format!("127.0.0.1:{}", ports.link),
            )
            .env("CORELANE__LOG__LEVEL", "warn");
        let process = Running::start(&mut command);
        let http = format!("http://127.0.0.1:{}", ports.http);
        wait_for("a router that is ready", READY, || {
            ureq::get(format!("{http}/readyz")).call().ok()
        });
        Self { process, http }
    }
}

fn spawn(command: &mut Command) -> Child {
    command
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// Reads line by line until the program ends, so that it never waits for a reader.
fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

/// A gateway, with everything embedded unless it was given a router.
#[derive(Debug)]
pub struct Gateway {
    /// The process.
    pub process: Running,
    /// WebSocket URL.
    pub ws_url: String,
    /// WebSocket address.
    pub ws: SocketAddr,
    /// Base URL of the HTTP API; of the gateway's own metrics, if its router is another process.
    pub http: String,
    /// Where the embedded router serves links.
    pub link: Option<String>,
    /// Data directory.
    pub data: PathBuf,
    /// What connections to it begin with: nothing, or the header that a proxy in front of it would send.
    pub preface: Vec<u8>,
}

impl Gateway {
    /// Starts one on free ports with its data in `data`; `set` are further keys, as `section.key=value`.
    ///
    /// # Panics
    ///
    /// If it is not ready in time.
    pub fn start(data: &Path, set: &[&str]) -> Self {
        let mut command = Self::command(data, set);
        Self::from(Running::start(&mut command), data)
    }

    /// Starts one with everything embedded on these ports.
    ///
    /// # Panics
    ///
    /// If it is not ready in time.
    pub fn start_on(data: &Path, ports: &Ports) -> Self {
        let keys = [
            format!("gateway.listen=127.0.0.1:{}", ports.ws),
            format!("router.http_listen=127.0.0.1:{}", ports.http),
            format!("router.link_listen=127.0.0.1:{}", ports.link),
        ];
        Self::start(data, &keys.each_ref().map(String::as_str))
    }

    /// Starts one whose router is another process ([`Router::start`]), on these ports.
    ///
    /// # Panics
    ///
    /// If it is not ready in time.
    pub fn start_beside_router(data: &Path, ports: &Ports) -> Self {
        let keys = [
            format!("gateway.listen=127.0.0.1:{}", ports.ws),
            format!("admin.listen=127.0.0.1:{}", ports.admin),
            "router.embedded=false".to_owned(),
            format!("router.seeds=127.0.0.1:{}", ports.link),
        ];
        Self::start(data, &keys.each_ref().map(String::as_str))
    }

    /// The command of [`Self::start`], to be changed before it is started.
    pub fn command(data: &Path, set: &[&str]) -> Command {
        let mut command = Command::new(binary("corelane-gateway"));
        let data = format!("store.data_dir={}", data.display());
        let fixed = [
            "gateway.listen=127.0.0.1:0",
            "router.http_listen=127.0.0.1:0",
            "router.link_listen=127.0.0.1:0",
            "log.level=warn",
            data.as_str(),
        ];
        for each in fixed.iter().chain(set) {
            command.args(["--set", each]);
        }
        command
    }

    /// Takes a started gateway and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it is not ready in time.
    pub fn from(process: Running, data: &Path) -> Self {
        Self::from_line(process, data, None)
    }

    /// The same, of a gateway whose router serves HTTP elsewhere.
    pub(crate) fn from_line(mut process: Running, data: &Path, http: Option<&str>) -> Self {
        let line = process.line("ready ");
        Self::ready(process, data, &line, http)
    }

    /// Takes a started gateway whose router serves `http` in another process, and waits until it is ready; with it the
    /// base URL of its own metrics.
    ///
    /// # Panics
    ///
    /// If it is not ready in time.
    pub fn beside(mut process: Running, data: &Path, http: &str) -> (Self, String) {
        let line = process.line("ready ");
        (
            Self::ready(process, data, &line, Some(http)),
            field(&line, "admin"),
        )
    }

    fn ready(process: Running, data: &Path, line: &str, http: Option<&str>) -> Self {
        let ws_url = field(line, "ws");
        let ws = ws_url
            .trim_start_matches("ws://")
            .trim_end_matches("/ws")
            .parse()
            .expect("an address");
        let own_http = || field(line, if line.contains(" http=") { "http" } else { "admin" });
        Self {
            process,
            ws_url,
            ws,
            http: http.map_or_else(own_http, str::to_owned),
            link: line.contains(" link=").then(|| field(line, "link")),
            data: data.to_owned(),
            preface: Vec::new(),
        }
    }

    /// A token for a user, made by the program itself.
    ///
    /// # Panics
    ///
    /// If it makes none.
    pub fn token(&self, user: &str) -> String {
        let data = format!("store.data_dir={}", self.data.display());
        let output = Command::new(binary("corelane-gateway"))
            .args(["token", "issue", "--user", user, "--set", &data])
            .output()
            .expect("the gateway's binary runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .expect("a token is ASCII")
            .trim()
            .to_owned()
    }

    /// The key of the HTTP API.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn admin_key(&self) -> String {
        std::fs::read_to_string(self.data.join("admin.key"))
            .expect("admin.key was made")
            .trim()
            .to_owned()
    }

    /// A TCP connection to the WebSocket port, with a timeout on reads, that begins with the preface.
    ///
    /// # Panics
    ///
    /// If it cannot be connected.
    pub fn connect(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.ws).expect("the gateway listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout can be set");
        stream
            .write_all(&self.preface)
            .expect("a new connection takes some bytes");
        stream
    }
}

/// The figure of a metric, as served at `base`; of all its labels together.
///
/// # Panics
///
/// If metrics are not served there.
pub fn metric(base: &str, name: &str) -> u64 {
    let mut answer = ureq::get(&format!("{base}/metrics"))
        .call()
        .expect("metrics are served");
    let text = answer.body_mut().read_to_string().expect("text");
    let figures = text.lines().filter_map(|line| {
        let (row, figure) = line.rsplit_once(' ')?;
        (row.split('{').next() == Some(name)).then_some(figure)
    });
    figures
        .map(|figure| figure.parse::<u64>().expect("a whole number"))
        .sum()
}

/// A field of the line that says where everything is.
fn field(line: &str, name: &str) -> String {
    let mut fields = line.split_whitespace();
    let found = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    found
        .unwrap_or_else(|| panic!("no {name} in {line:?}"))
        .to_owned()
}

pub mod apart;
pub mod bystanders;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod http;
pub mod load;
pub mod metrics;
pub mod once;
pub mod order;
pub mod peer;
pub mod proxy;
pub mod router;
pub mod strace;
pub mod talk;
pub mod two;
pub mod way;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// A program that says this on standard error and ends well.
    fn saying(text: &str) -> Running {
        let mut process = Running::start(Command::new("sh").args(["-c", "echo \"$0\" >&2", text]));
        assert_eq!(process.wait(READY), Some(0));
        process
    }

    /// What the test fails with; nothing if it passes.
    fn failure(test: impl FnOnce()) -> String {
        let Err(reason) = catch_unwind(AssertUnwindSafe(test)) else {
            return String::new();
        };
        match reason.downcast_ref::<String>() {
            Some(formatted) => formatted.clone(),
            None => (*reason.downcast_ref::<&str>().unwrap()).to_owned(),
        }
    }

    #[test]
    fn a_panic_of_the_program_fails_its_test() {
        let line = "thread 'router' panicked at router/src/http.rs:1:1:";
        let text = failure(|| drop(saying(line)));
        assert!(text.contains(line), "{text:?}");
        assert_eq!(failure(|| drop(saying("all is well"))), "");
    }

    #[test]
    fn a_test_that_failed_before_keeps_its_reason() {
        let text = failure(|| {
            let _process = saying("thread 'router' panicked at router/src/http.rs:1:1:");
            panic!("the reason of the test");
        });
        assert_eq!(text, "the reason of the test");
    }
}
