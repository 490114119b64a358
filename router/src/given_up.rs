//! Boots that this router gives up, each once: the registry is told before anything is forgotten here.
//!
//! Records that find out that a boot is of no use come many at a time. The first one sees to it that the registry knows,
//! however long that takes, and then that what waited for the boot is forgotten; the others wait until it has. So a
//! router that ends in between leaves its outbox rows, and whoever adopts them finds out the same. Owns the last
//! [`BOOTS_MAX`] boots; one that is older is given up once more, which changes nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corelane_protocol::id::BootId;
use tokio::sync::OnceCell;

/// Boots that are remembered.
const BOOTS_MAX: usize = 64;
/// A registry that is away is told again after this time.
const AGAIN: Duration = Duration::from_millis(200);

/// Done once, for whoever comes.
type Done = Arc<OnceCell<()>>;

/// The boots, the newest at the end.
#[derive(Debug, Default)]
pub(crate) struct GivenUp(Mutex<VecDeque<(BootId, Done)>>);

impl GivenUp {
    /// Returns when the registry knows that a boot is over and all of it is forgotten here. `tell` tells the registry, and
    /// says whether it was told.
    pub(crate) async fn give_up<T, F>(&self, boot: BootId, tell: impl Fn() -> T, forget: impl FnOnce() -> F)
    where
        T: Future<Output = bool>,
        F: Future<Output = ()>,
    {
        let done = self.done(boot);
        done.get_or_init(|| async {
            while !tell().await {
                tokio::time::sleep(AGAIN).await;
            }
            forget().await;
        })
        .await;
    }

    fn done(&self, boot: BootId) -> Done {
        let mut boots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, done)) = boots.iter().find(|(known, _)| *known == boot) {
            return Arc::clone(done);
        }
        if boots.len() >= BOOTS_MAX {
            boots.pop_front();
        }
        let done = Done::default();
        boots.push_back((boot, Arc::clone(&done)));
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const BOOT: BootId = BootId(7);

    #[tokio::test]
    async fn nothing_is_forgotten_before_the_registry_knows_and_nobody_goes_on_before_that() {
        let given_up = GivenUp::default();
        let (told, forgotten) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let one_record = || async {
            // The registry is away at first.
            let tell = || async { told.fetch_add(1, Ordering::SeqCst) == 3 };
            let forget = || async {
                assert_eq!(told.load(Ordering::SeqCst), 4, "forgotten too early");
                forgotten.fetch_add(1, Ordering::SeqCst);
            };
            given_up.give_up(BOOT, tell, forget).await;
            assert_eq!(
                forgotten.load(Ordering::SeqCst),
                1,
                "the rows go with this answer"
            );
        };
        tokio::join!(one_record(), one_record(), one_record());
        one_record().await;
        assert_eq!(told.load(Ordering::SeqCst), 4, "once is enough");
    }

    #[tokio::test]
    async fn a_boot_that_cannot_be_given_up_yet_does_not_keep_another_one() {
        let given_up = GivenUp::default();
        let never = given_up.give_up(
            BOOT,
            || async { false },
            || async { panic!("the registry knows nothing") },
        );
        let other = given_up.give_up(BootId(8), || async { true }, || async {});
        tokio::select! {
            () = never => panic!("it was told"),
            () = other => {}
        }
    }
}
