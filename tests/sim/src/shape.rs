//! Who takes part in a run, and which faults it has: both follow from the seed.

use crate::rng::Rng;

/// Who there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One router, whose memory is registry and bus: both end with it.
    Alone,
    /// Routers that come and go, share a registry and a store, and publish to a bus that stands apart.
    Cluster,
}

impl Shape {
    /// Names of the routers; they listen at addresses of the same names.
    pub(crate) const fn routers(self) -> &'static [&'static str] {
        match self {
            Self::Alone => &["router"],
            Self::Cluster => &["router-1", "router-2", "router-3"],
        }
    }

    /// Those of them that gateways are told of.
    pub(crate) const fn seeds(self) -> &'static [&'static str] {
        match self {
            Self::Alone => &["router"],
            Self::Cluster => &["router-1", "router-2"],
        }
    }

    /// Process and number of each shard.
    pub(crate) const fn shards(self) -> &'static [(usize, u16)] {
        match self {
            Self::Alone => &[(0, 0), (1, 0), (1, 1)],
            Self::Cluster => &[(0, 0), (1, 0), (1, 1), (2, 0)],
        }
    }

    /// Lanes of the store.
    pub(crate) const fn lanes(self) -> u16 {
        match self {
            Self::Alone => 4,
            Self::Cluster => 8,
        }
    }

    pub(crate) fn is_cluster(self) -> bool {
        self == Self::Cluster
    }

    /// How often in a thousand something takes long while there are faults.
    pub(crate) const fn slow_per_mille(self) -> u64 {
        match self {
            Self::Alone => 30,
            Self::Cluster => 80,
        }
    }
}

/// Which faults a run has; some have none of a class, so that what holds without it is checked, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) bus: bool,
    pub(crate) bus_loses: bool,
    /// Records that a gateway's topic holds; one more and all of them are lost.
    pub(crate) topic_records_max: usize,
    pub(crate) store: bool,
    /// Routers die.
    pub(crate) router: bool,
    pub(crate) links: bool,
    pub(crate) readers: bool,
    pub(crate) logins: bool,
    /// Gateways stand still.
    pub(crate) pauses: bool,
    /// Nobody can be looked up for a while, now and then.
    pub(crate) lookups: bool,
    // Only where there are several routers.
    /// Routers come, and leave in order.
    pub(crate) moves: bool,
    /// Routers stand still.
    pub(crate) router_pauses: bool,
    /// Gateways die.
    pub(crate) gateway_dies: bool,
    /// The registry is away for a while.
    pub(crate) registry_away: bool,
    /// The registry forgets its end, or everything.
    pub(crate) registry_forgets: bool,
    /// The store writes a part of a commit, and says that it is made.
    pub(crate) torn: bool,
    /// A topic is deleted, a partition stands still.
    pub(crate) topics: bool,
}

impl Faults {
    pub(crate) fn draw(shape: Shape, rng: &mut Rng) -> Self {
        match shape {
            Shape::Alone => Self::of_one(rng),
            Shape::Cluster => Self::of_several(rng),
        }
    }

    fn of_one(rng: &mut Rng) -> Self {
        let bus = rng.chance(500);
        Self {
            bus,
            bus_loses: bus && rng.chance(500),
            // A bus that holds little loses what it declares lost and nothing else.
            topic_records_max: if !bus && rng.chance(600) {
                rng.between(4, 24) as usize
            } else {
                usize::MAX
            },
            store: rng.chance(600),
            router: rng.chance(500),
            links: rng.chance(600),
            readers: rng.chance(500),
            logins: rng.chance(700),
            pauses: rng.chance(400),
            lookups: rng.chance(400),
            moves: false,
            router_pauses: false,
            gateway_dies: false,
            registry_away: false,
            registry_forgets: false,
            torn: false,
            topics: false,
        }
    }

    /// A third of the runs have nothing that may disturb the order of deliveries but routers that come and go.
    fn of_several(rng: &mut Rng) -> Self {
        let is_rough = rng.chance(670);
        let mut rough = |per_mille| is_rough && rng.chance(per_mille);
        let bus = rough(400);
        let (store, router, router_pauses) = (rough(400), rough(500), rough(400));
        let torn = rough(350);
        Self {
            bus,
            bus_loses: bus && rng.chance(400),
            topic_records_max: usize::MAX,
            store,
            router,
            links: rng.chance(400),
            readers: rng.chance(400),
            logins: rng.chance(600),
            pauses: rng.chance(300),
            moves: rng.chance(800),
            router_pauses,
            gateway_dies: rng.chance(300),
            registry_away: rng.chance(250),
            registry_forgets: rng.chance(250),
            torn,
            topics: rng.chance(300),
            lookups: rng.chance(250),
        }
    }
}
