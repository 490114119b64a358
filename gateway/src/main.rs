//! `corelane-gateway`: see `--help`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corelane_gateway::clock::Clock;
use corelane_gateway::config::Config;
use corelane_gateway::token::TokenClaims;
use corelane_gateway::{doctor, logging, process, token};

/// The connection tier of an instant-messaging platform: a shard-per-core WebSocket gateway.
///
/// Without arguments it starts a whole platform on embedded defaults: gateway, router and store in one process, with a
/// demo chat page.
#[derive(Parser)]
#[command(name = "corelane-gateway", version)]
struct Arguments {
    /// Configuration file (see `config default`).
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key, as in --set gateway.listen=0.0.0.0:7070. May be repeated.
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Start the gateway (what happens without a verb).
    Run,
    /// Print or check a configuration.
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Say what this machine lacks, and how to mend it.
    Doctor,
    /// Work with tokens.
    #[command(subcommand)]
    Token(TokenVerb),
}

#[derive(Subcommand)]
enum ConfigVerb {
    /// Print the annotated default file.
    Default,
    /// Check a file and print nothing but mistakes.
    Check {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Subcommand)]
enum TokenVerb {
    /// Print a token for a user, signed with the key in the data directory.
    Issue {
        /// User id, 1 to 64 bytes.
        #[arg(long)]
        user: String,
        /// Tenant.
        #[arg(long, default_value_t = 0)]
        app: u32,
        /// Bind it to a terminal class: web, ios, android, desktop, pad or bot.
        #[arg(long)]
        terminal: Option<String>,
        /// Valid for this many seconds.
        #[arg(long, default_value_t = 86_400)]
        ttl_s: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "corelane-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let load =
        |file: Option<&PathBuf>| Config::load(file.map(PathBuf::as_path), std::env::vars(), &arguments.set);
    match &arguments.verb {
        None | Some(Verb::Run) => {
            let config = load(arguments.config.as_ref())?;
            logging::start(&config.log);
            process::run(config)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Verb::Config(ConfigVerb::Default)) => {
            print(&Config::default().describe());
            Ok(ExitCode::SUCCESS)
        }
        Some(Verb::Config(ConfigVerb::Check { file })) => {
            load(Some(file))?;
            print(&format!("{}: in order\n", file.display()));
            Ok(ExitCode::SUCCESS)
        }
        Some(Verb::Doctor) => {
            let findings = doctor::examine(&load(arguments.config.as_ref())?);
            print(&doctor::table(&findings));
            let unmet = findings
                .iter()
                .any(|finding| finding.required && finding.fix.is_some());
            Ok(if unmet {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            })
        }
        Some(Verb::Token(TokenVerb::Issue {
            user,
            app,
            terminal,
            ttl_s,
        })) => {
            let config = load(arguments.config.as_ref())?;
            let secret = process::token_secret(&config)?;
            let now_s = Clock::start().now().wall_ms / 1000;
            let claims = TokenClaims {
                app: *app,
                sub: user.clone(),
                terminal: terminal.clone(),
                device: None,
                iat: now_s,
                exp: now_s.saturating_add(*ttl_s),
                scopes: Vec::new(),
            };
            let signed = token::issue(&secret, &claims)?;
            // What was just signed must be accepted: a wrong user or terminal is found here.
            token::Verifier::new(&secret)
                .verify(&signed)
                .map_err(|verdict| format!("{verdict:?}"))?;
            print(&format!("{signed}\n"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
