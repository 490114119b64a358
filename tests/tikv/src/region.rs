//! The regions: which ranges of keys this store leads, with their epochs. A request names region and epoch, and is
//! refused with TiKV's region errors where they are not the current ones; a client then asks PD again.
//!
//! Bounds are kept as raw keys. Everybody else (PD, clients in region messages) sees them in TiKV's memcomparable
//! encoding; keys inside requests are raw.

use crate::proto::errorpb::{EpochNotMatch, Error, KeyNotInRegion, NotLeader, RegionNotFound, StoreNotMatch};
use crate::proto::kvrpcpb::Context;
use crate::proto::metapb::{self, Peer, RegionEpoch};
use crate::record::Region;

/// Bytes of a group in the memcomparable encoding.
const GROUP_BYTES: usize = 8;

/// A key as PD sees it: groups of 8 bytes, padded with zeros, each followed by 255 minus the padding. Orders like the key.
pub(crate) fn encode_key(key: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity((key.len() / GROUP_BYTES + 1) * (GROUP_BYTES + 1));
    // A key that fills its last group is followed by an empty one.
    let closing = key.len().is_multiple_of(GROUP_BYTES).then_some(&[][..]);
    for group in key.chunks(GROUP_BYTES).chain(closing) {
        let padding = GROUP_BYTES - group.len();
        encoded.extend_from_slice(group);
        encoded.resize(encoded.len() + padding, 0);
        encoded.push(u8::try_from(0xff - padding).unwrap_or(0xff));
    }
    encoded
}

/// A region's bound: an empty one means without end and stays empty.
fn encode_bound(key: &[u8]) -> Vec<u8> {
    if key.is_empty() {
        Vec::new()
    } else {
        encode_key(key)
    }
}

impl Region {
    /// The region that holds every key.
    pub(crate) fn whole(id: u64, peer_id: u64) -> Self {
        Self {
            id,
            start: Vec::new(),
            end: Vec::new(),
            conf_ver: 1,
            version: 1,
            peer_id,
        }
    }

    /// Whether the raw key is in the region.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && (self.end.is_empty() || key < self.end.as_slice())
    }

    /// The part of a range that lies in the region. Empty ends are without end.
    pub(crate) fn clamp<'a>(&'a self, start: &'a [u8], end: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let upper = match (self.end.as_slice(), end) {
            (own, []) => own,
            ([], asked) => asked,
            (own, asked) => own.min(asked),
        };
        (start.max(&self.start), upper)
    }

    /// Its only member.
    pub(crate) fn peer(&self, store_id: u64) -> Peer {
        Peer {
            id: self.peer_id,
            store_id,
            ..Peer::default()
        }
    }

    /// As PD and clients see it.
    pub(crate) fn to_proto(&self, store_id: u64) -> metapb::Region {
        metapb::Region {
            id: self.id,
            start_key: encode_bound(&self.start),
            end_key: encode_bound(&self.end),
            region_epoch: Some(RegionEpoch {
                conf_ver: self.conf_ver,
                version: self.version,
            }),
            peers: vec![self.peer(store_id)],
            ..metapb::Region::default()
        }
    }
}

/// All regions of the store, in key order; together they hold every key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Regions {
    store_id: u64,
    list: Vec<Region>,
}

impl Regions {
    /// Names the store: peers carry its id.
    pub(crate) fn of_store(&mut self, store_id: u64) {
        self.store_id = store_id;
    }

    /// Adds the region or replaces the one with its id.
    pub(crate) fn set(&mut self, region: Region) {
        self.list.retain(|other| other.id != region.id);
        let place = self.list.partition_point(|other| other.start < region.start);
        self.list.insert(place, region);
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Region] {
        &self.list
    }

    /// The one that holds the raw key.
    pub(crate) fn of_key(&self, key: &[u8]) -> Option<&Region> {
        self.list.iter().find(|region| region.contains(key))
    }

    /// The one that holds a key in PD's encoding.
    pub(crate) fn of_encoded_key(&self, key: &[u8]) -> Option<&Region> {
        self.list
            .iter()
            .rev()
            .find(|region| encode_bound(&region.start).as_slice() <= key)
    }

    /// The one with this id.
    pub(crate) fn by_id(&self, id: u64) -> Option<&Region> {
        self.list.iter().find(|region| region.id == id)
    }

    /// What a split at `key` makes of its region: the right part keeps the id, as TiKV does, the left gets the new ones.
    /// `None` where the key is a bound already.
    pub(crate) fn split(&self, key: &[u8], new_id: u64, new_peer_id: u64) -> Option<[Region; 2]> {
        let old = self.of_key(key).filter(|region| region.start != key)?;
        let version = old.version + 1;
        let left = Region {
            id: new_id,
            peer_id: new_peer_id,
            end: key.to_vec(),
            version,
            ..old.clone()
        };
        let right = Region {
            start: key.to_vec(),
            version,
            ..old.clone()
        };
        Some([left, right])
    }

    /// The region a request is for, if what it believes of it is true and its keys are in it.
    ///
    /// # Errors
    /// TiKV's region error.
    pub(crate) fn admit<'k>(
        &self,
        context: Option<&Context>,
        mut keys: impl Iterator<Item = &'k [u8]>,
    ) -> Result<&Region, Box<Error>> {
        let id = context.map_or(0, |context| context.region_id);
        let region = self.by_id(id).ok_or_else(|| Box::new(region_not_found(id)))?;
        let peer = context.and_then(|context| context.peer.as_ref());
        let request_store_id = peer.map_or(self.store_id, |peer| peer.store_id);
        if request_store_id != self.store_id {
            return Err(store_not_match(request_store_id, self.store_id).into());
        }
        let epoch = context
            .and_then(|context| context.region_epoch)
            .unwrap_or_default();
        if (epoch.conf_ver, epoch.version) != (region.conf_ver, region.version) {
            return Err(self.epoch_not_match(region).into());
        }
        match keys.find(|key| !region.contains(key)) {
            Some(key) => Err(key_not_in_region(key, region).into()),
            None => Ok(region),
        }
    }

    /// The refusal of an epoch that is not current: tells the region and its left neighbour, which a split made.
    pub(crate) fn epoch_not_match(&self, region: &Region) -> Error {
        let left = self
            .list
            .iter()
            .find(|other| !other.end.is_empty() && other.end == region.start);
        let current = [Some(region), left].into_iter().flatten();
        let current_regions = current.map(|region| region.to_proto(self.store_id)).collect();
        Error {
            message: format!("current epoch of region {} is {}", region.id, region.version),
            epoch_not_match: Some(EpochNotMatch { current_regions }),
            ..Error::default()
        }
    }
}

/// The refusal of a region that is not here.
pub(crate) fn region_not_found(region_id: u64) -> Error {
    Error {
        message: format!("region {region_id} not found"),
        region_not_found: Some(RegionNotFound { region_id }),
        ..Error::default()
    }
}

/// The refusal of a key outside of its region.
pub(crate) fn key_not_in_region(key: &[u8], region: &Region) -> Error {
    let detail = KeyNotInRegion {
        key: key.to_vec(),
        region_id: region.id,
        start_key: encode_bound(&region.start),
        end_key: encode_bound(&region.end),
    };
    Error {
        message: format!("key not in region {}", region.id),
        key_not_in_region: Some(detail),
        ..Error::default()
    }
}

/// The refusal of a store that does not lead the region, and does not know who does.
pub(crate) fn not_leader(region_id: u64) -> Error {
    Error {
        message: format!("peer is not leader for region {region_id}, leader may be none"),
        not_leader: Some(NotLeader {
            region_id,
            leader: None,
        }),
        ..Error::default()
    }
}

fn store_not_match(request_store_id: u64, actual_store_id: u64) -> Error {
    Error {
        message: format!("store {request_store_id} was asked for, this is {actual_store_id}"),
        store_not_match: Some(StoreNotMatch {
            request_store_id,
            actual_store_id,
        }),
        ..Error::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_at(keys: &[&str]) -> Regions {
        let mut regions = Regions::default();
        regions.of_store(1);
        regions.set(Region::whole(2, 3));
        for (index, key) in (10_u64..).zip(keys) {
            let parts = regions.split(key.as_bytes(), index * 2, index * 2 + 1).unwrap();
            for part in parts {
                regions.set(part);
            }
        }
        regions
    }

    fn context(region: &Region) -> Context {
        Context {
            region_id: region.id,
            region_epoch: Some(RegionEpoch {
                conf_ver: region.conf_ver,
                version: region.version,
            }),
            peer: Some(region.peer(1)),
            ..Context::default()
        }
    }

    #[test]
    fn keys_are_encoded_as_tikv_does_and_keep_their_order() {
        assert_eq!(encode_key(b""), [0, 0, 0, 0, 0, 0, 0, 0, 247]);
        assert_eq!(encode_key(&[1, 2, 3, 0]), [1, 2, 3, 0, 0, 0, 0, 0, 251]);
        let full = [1, 2, 3, 4, 5, 6, 7, 8, 255, 0, 0, 0, 0, 0, 0, 0, 0, 247];
        assert_eq!(encode_key(&[1, 2, 3, 4, 5, 6, 7, 8]), full);
        let keys: [&[u8]; 6] = [b"", b"a", b"a\0", b"aaaaaaaa", b"aaaaaaaab", b"b"];
        assert!(keys.map(encode_key).is_sorted());
    }

    #[test]
    fn splits_cover_every_key_once_and_raise_the_epoch() {
        let regions = split_at(&["g", "m", "c"]);
        let bounds: Vec<_> = regions
            .all()
            .iter()
            .map(|region| (region.start.clone(), region.end.clone()))
            .collect();
        let expected = [("", "c"), ("c", "g"), ("g", "m"), ("m", "")];
        assert_eq!(
            bounds,
            expected.map(|(start, end)| (start.as_bytes().to_vec(), end.as_bytes().to_vec()))
        );
        for key in ["", "b", "c", "f", "g", "z"] {
            assert_eq!(
                regions.of_key(key.as_bytes()),
                regions.of_encoded_key(&encode_key(key.as_bytes()))
            );
        }
        assert_eq!(regions.of_key(b"z").unwrap().id, 2);
        assert_eq!(regions.of_key(b"a").unwrap().version, 3);
        assert!(regions.split(b"g", 90, 91).is_none());
    }

    #[test]
    fn a_request_with_an_old_epoch_is_told_the_new_regions() {
        let mut regions = split_at(&[]);
        let before = context(regions.of_key(b"a").unwrap());
        assert!(regions.admit(Some(&before), [&b"a"[..]].into_iter()).is_ok());
        let parts = regions.split(b"m", 20, 21).unwrap();
        for part in parts {
            regions.set(part);
        }
        let error = regions.admit(Some(&before), std::iter::empty()).unwrap_err();
        assert_eq!(error.epoch_not_match.unwrap().current_regions.len(), 2);
    }

    #[test]
    fn keys_of_another_region_and_another_store_are_refused() {
        let regions = split_at(&["m"]);
        let left = context(regions.of_key(b"a").unwrap());
        let error = regions
            .admit(Some(&left), [&b"a"[..], b"m"].into_iter())
            .unwrap_err();
        assert_eq!(error.key_not_in_region.unwrap().key, b"m");
        let stranger = Context {
            peer: Some(Peer {
                store_id: 7,
                ..Peer::default()
            }),
            ..left
        };
        assert!(
            regions
                .admit(Some(&stranger), std::iter::empty())
                .unwrap_err()
                .store_not_match
                .is_some()
        );
        assert!(
            regions
                .admit(None, std::iter::empty())
                .unwrap_err()
                .region_not_found
                .is_some()
        );
    }
}
