//! The store that the configuration chose.

use corelane_protocol::id::{AppId, ConvId, Lane, UserId};
use corelane_router_core::append::{Batch, Committed};

use super::remembered::{self, CLUSTER_FILE};
use super::sqlite::SqliteStore;
use super::tikv::{TikvOptions, TikvStats, TikvStore, TikvTls};
use super::timing::CommitStats;
use super::{
    DeliveredMark, Members, MessageStore, OutboxRow, Pulled, ReadMark, Readable, StoreError, StoreInfo,
    Synced, schema,
};
use crate::clock::Clock;
use crate::config::{Durability, StoreSection};

/// One of the adapters.
#[derive(Debug)]
pub enum AnyStore {
    /// Embedded, in the data directory.
    Sqlite(Box<SqliteStore>),
    /// Shared by all routers.
    Tikv(Box<TikvStore>),
}

/// What happened since the start, by adapter.
#[derive(Debug)]
pub enum StoreStats {
    /// Of the embedded store.
    Sqlite(CommitStats),
    /// Of TiKV.
    Tikv(Box<TikvStats>),
}

impl AnyStore {
    /// Opens the store. `boot` is this start of the router, `random` names a new cluster and new epochs.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`], naming what is wrong and what to do. Nothing was changed.
    pub fn open(config: &StoreSection, boot: u64, random: u64, clock: Clock) -> Result<Self, StoreError> {
        let remembered = remembered::cluster(&config.data_dir)?;
        if !config.pd.is_empty() {
            let store = open_tikv(config, remembered, (boot, random), clock)?;
            return Ok(Self::Tikv(Box::new(store)));
        }
        if let Some(cluster) = remembered {
            return Err(wrong(
                config,
                format!(
                    "belongs to cluster {cluster:016x}, whose store is in TiKV; set store.pd, or remove the file \
                     `{CLUSTER_FILE}` to begin with an empty embedded store"
                ),
            ));
        }
        let durability = match config.durability {
            Durability::Full => schema::Durability::Full,
            Durability::Os => schema::Durability::Os,
        };
        let store = SqliteStore::open(&config.data_dir, durability, config.lanes, random, clock)?;
        Ok(Self::Sqlite(Box::new(store)))
    }

    /// What happened since the start.
    pub fn stats(&self) -> StoreStats {
        match self {
            Self::Sqlite(store) => StoreStats::Sqlite(store.stats()),
            Self::Tikv(store) => StoreStats::Tikv(Box::new(store.stats())),
        }
    }
}

fn open_tikv(
    config: &StoreSection,
    remembered: Option<u64>,
    (boot, random): (u64, u64),
    clock: Clock,
) -> Result<TikvStore, StoreError> {
    if config.data_dir.join("corelane.db").exists() {
        let text = "holds an embedded store, and store.pd says that messages are in TiKV; set another store.data_dir, or an \
                    empty store.pd";
        return Err(wrong(config, text.to_owned()));
    }
    let configured = remembered::parse(&config.cluster);
    if let (Some(before), Some(cluster)) = (remembered, configured)
        && before != cluster
    {
        let text = format!(
            "belongs to cluster {before:016x}, store.cluster says {cluster:016x}; change one of them"
        );
        return Err(wrong(config, text));
    }
    let store = TikvStore::open(&TikvOptions {
        tls: tls(config),
        prefix: config.prefix.clone().into_bytes(),
        cluster_id: configured.or(remembered),
        makes: remembered.is_none(),
        collects_garbage: config.collect_garbage,
        ..TikvOptions::new(config.pd.clone(), config.lanes, boot, random, clock)
    })?;
    remembered::remember(&config.data_dir, store.info().cluster_id)?;
    Ok(store)
}

fn wrong(config: &StoreSection, problem: String) -> StoreError {
    StoreError::Open {
        path: config.data_dir.display().to_string(),
        problem,
    }
}

fn tls(config: &StoreSection) -> Option<TikvTls> {
    let is_set = !config.tls_ca.as_os_str().is_empty();
    is_set.then(|| TikvTls {
        ca: config.tls_ca.clone(),
        cert: config.tls_cert.clone(),
        key: config.tls_key.clone(),
    })
}

macro_rules! both {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Self::Sqlite($store) => $call,
            Self::Tikv($store) => $call,
        }
    };
}

impl MessageStore for AnyStore {
    fn info(&self) -> StoreInfo {
        both!(self, store => store.info())
    }

    async fn commit(&self, batch: Batch) -> Committed {
        both!(self, store => store.commit(batch).await)
    }

    fn clear_outbox(&self, rows: Vec<u64>) {
        both!(self, store => store.clear_outbox(rows));
    }

    async fn writers(&self) -> Result<Vec<u64>, StoreError> {
        both!(self, store => store.writers().await)
    }

    async fn outbox(&self, of: Vec<u64>, lanes: Vec<Lane>, after: u64) -> Result<Vec<OutboxRow>, StoreError> {
        both!(self, store => store.outbox(of, lanes, after).await)
    }

    async fn outbox_rows(&self, lane: Lane, rows: Vec<u64>) -> Result<Vec<OutboxRow>, StoreError> {
        both!(self, store => store.outbox_rows(lane, rows).await)
    }

    async fn stray(&self) -> OutboxRow {
        both!(self, store => store.stray().await)
    }

    async fn pull(
        &self,
        app: AppId,
        conv: ConvId,
        from: u64,
        to: u64,
        limit: u16,
    ) -> Result<Pulled, StoreError> {
        both!(self, store => store.pull(app, conv, from, to, limit).await)
    }

    async fn sync(
        &self,
        app: AppId,
        user: UserId,
        cursor: Vec<u8>,
        limit: u16,
    ) -> Result<Synced, StoreError> {
        both!(self, store => store.sync(app, user, cursor, limit).await)
    }

    async fn members(&self, app: AppId, conv: ConvId, since: u64) -> Result<Members, StoreError> {
        both!(self, store => store.members(app, conv, since).await)
    }

    async fn readable(&self, app: AppId, conv: ConvId, user: UserId) -> Result<Option<Readable>, StoreError> {
        both!(self, store => store.readable(app, conv, user).await)
    }

    async fn read(&self, app: AppId, user: UserId, conv: ConvId, seq: u64) -> Result<ReadMark, StoreError> {
        both!(self, store => store.read(app, user, conv, seq).await)
    }

    fn delivered(&self, mark: DeliveredMark) {
        both!(self, store => store.delivered(mark));
    }

    async fn bump_epoch(&self, random: u64) -> Result<u64, StoreError> {
        both!(self, store => store.bump_epoch(random).await)
    }

    fn is_cleared(&self) -> bool {
        both!(self, store => store.is_cleared())
    }

    fn poisoned(&self) -> Option<String> {
        both!(self, store => store.poisoned())
    }

    async fn failed(&self) -> String {
        both!(self, store => store.failed().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: &StoreSection) -> String {
        match AnyStore::open(config, 1, 2, Clock::start()) {
            Err(error) => error.to_string(),
            Ok(store) => panic!("{store:?}"),
        }
    }

    #[test]
    fn a_data_directory_is_of_one_store() {
        let dir = tempfile::tempdir().unwrap();
        let embedded = StoreSection {
            data_dir: dir.path().to_owned(),
            ..StoreSection::default()
        };
        let in_tikv = StoreSection {
            pd: vec!["127.0.0.1:1".to_owned()],
            ..embedded.clone()
        };
        drop(AnyStore::open(&embedded, 1, 2, Clock::start()).unwrap());
        let text = refused(&in_tikv);
        assert!(
            text.contains("embedded store") && text.contains("store.pd"),
            "{text}"
        );
        let dir = tempfile::tempdir().unwrap();
        remembered::remember(dir.path(), 0xabc).unwrap();
        let text = refused(&StoreSection {
            data_dir: dir.path().to_owned(),
            ..embedded
        });
        assert!(
            text.contains("0000000000000abc") && text.contains("store.pd"),
            "{text}"
        );
    }
}
