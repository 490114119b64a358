//! Starts the shipped programs for tests and stops them again: real processes, sockets and files.
//!
//! The binaries are taken from `CORELANE_BIN_DIR` (set by `ops/test`) or from the directory that the test itself was
//! built into. A test that finds none fails and says what to build.

use std::io::{BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long a program may take to be ready.
const READY: Duration = Duration::from_secs(20);

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
}

impl Running {
    /// Starts a program whose standard output is read line by line; its log goes to the test's.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let mut child = spawn(command.stdout(Stdio::piped()));
        let output = child.stdout.take().expect("standard output is piped");
        Self {
            child,
            lines: lines_of(output),
        }
    }

    /// As [`Self::start`], for a program that says everything on standard error.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_with_log(command: &mut Command) -> Self {
        let mut child = spawn(command.stderr(Stdio::piped()));
        let output = child.stderr.take().expect("standard error is piped");
        Self {
            child,
            lines: lines_of(output),
        }
    }

    /// The first line of output that begins with `prefix`.
    ///
    /// # Panics
    ///
    /// If the program ends before, or takes longer than 20 s.
    pub fn line(&mut self, prefix: &str) -> String {
        self.line_where(prefix, |line| line.starts_with(prefix))
    }

    /// The first line of output that has `part` in it.
    ///
    /// # Panics
    ///
    /// If the program ends before, or takes longer than 20 s.
    pub fn line_with(&mut self, part: &str) -> String {
        self.line_where(part, |line| line.contains(part))
    }

    fn line_where(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = now() + READY;
        loop {
            let left = deadline.saturating_duration_since(now());
            match self.lines.recv_timeout(left) {
                Ok(line) if wanted(&line) => return line,
                Ok(_) => {}
                Err(error) => panic!(
                    "no line {what:?}: {error}; the program: {:?}",
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
        let _ = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
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

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
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
    /// Base URL of the HTTP API.
    pub http: String,
    /// Where the embedded router serves links.
    pub link: Option<String>,
    /// Data directory.
    pub data: PathBuf,
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
        let field = |name: &str| {
            let found = line
                .split_whitespace()
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            found
                .unwrap_or_else(|| panic!("no {name} in {line:?}"))
                .to_owned()
        };
        let ws_url = field("ws");
        let ws = ws_url
            .trim_start_matches("ws://")
            .trim_end_matches("/ws")
            .parse()
            .expect("an address");
        Self {
            process,
            ws_url,
            ws,
            http: http.map_or_else(|| field("http"), str::to_owned),
            link: http.is_none().then(|| field("link")),
            data: data.to_owned(),
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

    /// A TCP connection to the WebSocket port, with a timeout on reads.
    ///
    /// # Panics
    ///
    /// If it cannot be connected.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.ws).expect("the gateway listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout can be set");
        stream
    }
}

pub mod bystanders;
pub mod client;
pub mod http;
pub mod order;
pub mod peer;
pub mod router;
pub mod strace;
