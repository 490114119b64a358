//! The scripts, and how they are run: by their hash, and with their text where the server does not know the hash (after a
//! restart, a failover or `SCRIPT FLUSH`).

use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike as _, LuaInterface as _};
use fred::types::scripts::Script as Lua;
use fred::types::{ClusterHash, CustomCommand, Value};
use fred::util::redis_keyslot;

/// Commands that are sent before their answers are waited for.
pub(super) const BATCH: usize = 128;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident: $($file:literal)+,)*) => {
        /// The scripts. Each says in its file what its keys, arguments and answers are.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)*
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self {
                    $($name: Script::new(concat!($(include_str!(concat!("scripts/", $file, ".lua")), "\n",)+)),)*
                }
            }
        }
    };
}

scripts! {
    claim: "preamble" "claim",
    leave: "preamble" "leave",
    held: "held",
    remembers: "remembers",
    lease: "lease",
    expect: "expect",
    lapsed: "lapsed",
    bury: "bury",
    state: "state",
    adopt: "adopt",
    router_join: "router_join",
    router_renew: "router_renew",
    router_leave: "router_leave",
    router_list: "router_list",
    router_drained: "router_drained",
}

/// One script.
#[derive(Debug)]
pub(super) struct Script(Lua, &'static str);

/// Keys and arguments of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Call {
    pub(super) keys: Vec<String>,
    pub(super) args: Vec<String>,
}

impl Call {
    pub(super) fn new(keys: impl Into<Vec<String>>, args: impl Into<Vec<String>>) -> Self {
        Self {
            keys: keys.into(),
            args: args.into(),
        }
    }
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self(Lua::from_lua(text), text)
    }

    /// Runs it; the answer is a list of text.
    pub(super) async fn run(&self, client: &Client, call: Call) -> Result<Vec<String>, Error> {
        let hash = self.0.sha1().clone();
        let known = client
            .evalsha::<Value, _, _, _>(hash, call.keys.clone(), call.args.clone())
            .await;
        texts(match known {
            Err(error) if is_unknown(&error) => client.eval(self.1, call.keys, call.args).await?,
            known => known?,
        })
    }

    /// Runs it for each call, [`BATCH`] at a time; the answers are in their order.
    pub(super) async fn run_all(&self, client: &Client, calls: Vec<Call>) -> Result<Vec<Vec<String>>, Error> {
        let mut answers = Vec::with_capacity(calls.len());
        for batch in calls.chunks(BATCH) {
            let pipeline = client.pipeline();
            for call in batch {
                let _: () = pipeline.custom(Self::command(call), self.words(call)).await?;
            }
            let results = pipeline.try_all::<Value>().await;
            for (result, call) in of_each(results, batch.len())?.into_iter().zip(batch) {
                answers.push(match result {
                    Err(error) if is_unknown(&error) => self.run(client, call.clone()).await?,
                    known => texts(known?)?,
                });
            }
        }
        Ok(answers)
    }
}

impl Script {
    /// A run as a command of a pipeline, for which the client has none.
    fn command(call: &Call) -> CustomCommand {
        let slot = call.keys.first().map(|key| redis_keyslot(key.as_bytes()));
        CustomCommand::new_static(
            "EVALSHA",
            slot.map_or(ClusterHash::Random, ClusterHash::Custom),
            false,
        )
    }

    fn words(&self, call: &Call) -> Vec<String> {
        let mut words = vec![self.0.sha1().to_string(), call.keys.len().to_string()];
        words.extend_from_slice(&call.keys);
        words.extend_from_slice(&call.args);
        words
    }
}

/// Results of a pipeline: one for each command. One that was not sent at all has a single error.
pub(super) fn of_each(
    mut results: Vec<Result<Value, Error>>,
    count: usize,
) -> Result<Vec<Result<Value, Error>>, Error> {
    if results.len() == count {
        return Ok(results);
    }
    match results.pop() {
        Some(Err(error)) => Err(error),
        _ => Err(Error::new(
            ErrorKind::Protocol,
            "a pipeline had fewer answers than commands",
        )),
    }
}

/// A list of text, from an answer; of a map its keys and values by turns.
pub(super) fn texts(value: Value) -> Result<Vec<String>, Error> {
    match value {
        Value::Array(values) => values.into_iter().map(Value::convert).collect(),
        Value::Map(map) => {
            let words = map
                .inner()
                .into_iter()
                .flat_map(|(key, value)| [Value::from(key), value]);
            words.map(Value::convert).collect()
        }
        Value::Null => Ok(Vec::new()),
        one => Ok(vec![one.convert()?]),
    }
}

/// Pairs, from a list that alternates.
pub(super) fn pairs(list: Vec<String>) -> Vec<(String, String)> {
    let mut list = list.into_iter();
    let mut pairs = Vec::with_capacity(list.len() / 2);
    while let (Some(one), Some(other)) = (list.next(), list.next()) {
        pairs.push((one, other));
    }
    pairs
}

fn is_unknown(error: &Error) -> bool {
    error.details().contains("NOSCRIPT")
}
