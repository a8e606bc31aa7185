//! Slots for fetches, shared fairly among clients and sites.
//!
//! A fetch keeps its slot while a site is silent. With a simple queue, one request with many URLs of such a
//! site would block all others. So no client and no site can have all slots, and the one with the fewest gets
//! the next slot.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The client of a fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Client {
    /// A single request, if there are no API keys.
    Request(u64),
    /// The API key of this name.
    Key(Arc<str>),
}

impl Client {
    /// A new client, different from all others.
    #[must_use]
    pub fn unique() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self::Request(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The client and the site of a slot.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) client: Client,
    pub(super) site: Arc<str>,
}

/// All slots.
#[derive(Debug, Clone)]
pub(super) struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: usize,
    /// Maximum number of slots of one client, and of one site.
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    clients: HashMap<Client, usize>,
    sites: HashMap<Arc<str>, usize>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    who: Who,
    turn: oneshot::Sender<Slot>,
}

/// A slot. Dropping it gives it to the next waiting fetch.
#[derive(Debug)]
pub struct Slot {
    /// None after the slot was given back.
    holder: Option<(Who, Slots)>,
}

impl State {
    /// The larger of the numbers of slots that the client and the site have.
    fn held(&self, who: &Who) -> usize {
        let of_client = self.clients.get(&who.client).copied().unwrap_or_default();
        of_client.max(self.sites.get(&who.site).copied().unwrap_or_default())
    }

    fn take(&mut self, who: &Who) {
        self.taken += 1;
        *self.clients.entry(who.client.clone()).or_default() += 1;
        *self.sites.entry(Arc::clone(&who.site)).or_default() += 1;
    }

    fn give_back(&mut self, who: &Who) {
        self.taken -= 1;
        lessen(&mut self.clients, &who.client);
        lessen(&mut self.sites, &who.site);
    }

    /// The next fetch: among those with the fewest slots, the one that has waited longest.
    fn next(&mut self, most: usize) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.turn.is_closed());
        let held = self.waiting.iter().map(|waiting| self.held(&waiting.who)).enumerate();
        let (at, held) = held.min_by_key(|&(at, held)| (held, at))?;
        if held < most { self.waiting.remove(at) } else { None }
    }
}

fn lessen<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Slots {
    pub(super) fn new(all: usize) -> Self {
        // Three quarters of all slots, but at least one.
        let most = (all - all / 4).max(1);
        Self(Arc::new(Shared { all: all.max(1), most, state: Mutex::default() }))
    }

    /// Waits for a slot. The caller limits how many wait.
    pub(super) async fn take(&self, who: Who) -> Option<Slot> {
        let (turn, comes) = oneshot::channel();
        self.0.state.lock().waiting.push_back(Waiting { who, turn });
        self.share_out();
        comes.await.ok()
    }

    /// Gives free slots to waiting fetches.
    fn share_out(&self) {
        loop {
            let next = {
                let mut state = self.0.state.lock();
                if state.taken >= self.0.all {
                    return;
                }
                let Some(next) = state.next(self.0.most) else { return };
                state.take(&next.who);
                next
            };
            let slot = Slot { holder: Some((next.who, self.clone())) };
            // This is outside the lock: if the receiver is gone, the slot is dropped here, which takes the
            // lock.
            drop(next.turn.send(slot));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((who, slots)) = self.holder.take() {
            slots.0.state.lock().give_back(&who);
            slots.share_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn who(client: u64, site: &str) -> Who {
        Who { client: Client::Request(client), site: site.into() }
    }

    #[tokio::test]
    async fn nobody_has_all_slots_and_who_has_fewest_comes_next() {
        let slots = Slots::new(4);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(slots.take(who(1, "silent")).now_or_never().expect("free"));
        }
        // Neither this client nor this site gets the last slot, but another one gets it at once.
        let mut same_client = Box::pin(slots.take(who(1, "other")));
        let mut same_site = Box::pin(slots.take(who(2, "silent")));
        assert!(futures::poll!(&mut same_client).is_pending());
        assert!(futures::poll!(&mut same_site).is_pending());
        let last = slots.take(who(3, "good")).now_or_never().expect("free");
        let mut late = Box::pin(slots.take(who(4, "better")));
        assert!(futures::poll!(&mut late).is_pending());
        // All slots are taken, so the latest fetch gets the next free one.
        held.pop();
        let _late = late.now_or_never().expect("its turn");
        assert!(futures::poll!(&mut same_client).is_pending());
        drop(last);
        let _same_client = same_client.now_or_never().expect("its turn");
        assert!(futures::poll!(&mut same_site).is_pending());
    }

    #[tokio::test]
    async fn one_that_is_not_waited_for_passes_on() {
        let slots = Slots::new(1);
        let first = slots.take(who(1, "a")).await;
        let mut left = Box::pin(slots.take(who(2, "b")));
        assert!(futures::poll!(&mut left).is_pending());
        let mut waits = Box::pin(slots.take(who(3, "c")));
        assert!(futures::poll!(&mut waits).is_pending());
        drop(left);
        drop(first);
        assert!(futures::poll!(&mut waits).is_ready());
        drop(waits);
        let state = slots.0.state.lock();
        assert_eq!((state.taken, state.clients.len(), state.sites.len()), (0, 0, 0));
    }
}
