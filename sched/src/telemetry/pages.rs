//! How busy GPUs are by what the pages of their clients say.

use super::Present;
use aishim_abi::rank::Uuid;
use std::collections::{BTreeMap, BTreeSet};

/// Shorter than this is no time to tell a utilisation of, in nanoseconds: clients that come and go wake us in between.
const SHORTEST_NS: u64 = 400_000_000;

/// Page and NVML disagree about a process from so many points of a percentage on, for so many looks on end.
const APART_PERCENT: u32 = 50;
const APART_LOOKS: u32 = 6;

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    used_ns: u64,
    percent: Option<u32>,
    /// Looks on end at which NVML said otherwise.
    apart: u32,
}

/// What was seen of each client, by process id and start time.
#[derive(Debug, Default)]
pub(super) struct Pages {
    clients: BTreeMap<(u32, u64), Seen>,
    looked_ns: u64,
    has_said: bool,
}

impl Pages {
    /// The utilisation of each GPU since the last look, in percent; empty where that was only just.
    ///
    /// A client says what it uses, not where: what one with several GPUs uses is divided among them. None can have used more than the time
    /// there was.
    pub(super) fn look(&mut self, clients: &[Present], now_ns: u64) -> BTreeMap<Uuid, u32> {
        let passed_ns = now_ns.saturating_sub(self.looked_ns);
        if passed_ns < SHORTEST_NS {
            return BTreeMap::new();
        }
        self.looked_ns = now_ns;
        let mut used_ns: BTreeMap<Uuid, u64> = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for client in clients {
            let key = (client.pid, client.start_ticks);
            let before = self.clients.get(&key).copied();
            let said_ns = client.page.check().map_or(0, |()| client.page.figures().used_ns);
            let own_ns = before.map(|before| {
                let most_ns = passed_ns.saturating_mul(client.gpus.len() as u64);
                said_ns.saturating_sub(before.used_ns).min(most_ns)
            });
            let percent = own_ns.map(|own_ns| percent(own_ns, passed_ns));
            seen.insert(key, Seen { used_ns: said_ns, percent, apart: before.map_or(0, |before| before.apart) });
            for uuid in &client.gpus {
                // A GPU whose only client was never seen before has a utilisation next time.
                if let Some(own_ns) = own_ns {
                    *used_ns.entry(*uuid).or_default() += own_ns / client.gpus.len() as u64;
                }
            }
        }
        self.clients = seen;
        used_ns.into_iter().map(|(uuid, used_ns)| (uuid, percent(used_ns, passed_ns))).collect()
    }

    /// Compares what pages say with what NVML said of processes, and tells once of one of which they say something else.
    pub(super) fn compare(&mut self, clients: &[Present], nvml: &BTreeMap<u32, u32>) {
        let mut counted = BTreeSet::new();
        for client in clients {
            let Some(seen) = self.clients.get_mut(&(client.pid, client.start_ticks)) else { continue };
            let (Some(own), Some(other)) = (seen.percent, nvml.get(&client.pid).copied()) else { continue };
            seen.apart = if own.abs_diff(other) >= APART_PERCENT { seen.apart + 1 } else { 0 };
            if seen.apart >= APART_LOOKS && counted.insert(client.pid) && !std::mem::replace(&mut self.has_said, true) {
                tracing::warn!(
                    "process {} has {other} % of the GPU as NVML says, and {own} % by its own page",
                    client.pid
                );
            }
        }
    }
}

fn percent(used_ns: u64, passed_ns: u64) -> u32 {
    (used_ns.saturating_mul(100) / passed_ns.max(1)).min(100) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use aishim_abi::client_page::{Identity, OwnPage, PageView};
    use aishim_abi::rank::Priority;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    const MS: u64 = 1_000_000;

    fn client(pid: u32, gpus: &[u8]) -> (Present, OwnPage) {
        let own = OwnPage::create(&Identity { pid, start_ticks: 1, generation: 1 }).unwrap();
        let passed = rustix::io::fcntl_dupfd_cloexec(own.descriptor().unwrap(), 3).unwrap();
        let page = Arc::new(PageView::open(passed).unwrap());
        let gpus = gpus.iter().map(|number| Uuid([*number; 16])).collect();
        (Present { pid, start_ticks: 1, rank: Priority::NORMAL, gpus, page }, own)
    }

    #[test]
    fn what_clients_use_adds_up() {
        let ((one, of_one), (two, of_two)) = (client(1, &[1]), client(2, &[1, 2]));
        let clients = [one, two];
        let mut pages = Pages::default();
        of_one.page().unwrap().used_ns.store(1 << 60, Relaxed);
        assert!(pages.look(&clients, 1_000 * MS).is_empty(), "used before it was looked at");
        of_one.page().unwrap().used_ns.fetch_add(250 * MS, Relaxed);
        of_two.page().unwrap().used_ns.fetch_add(400 * MS, Relaxed);
        assert!(pages.look(&clients, 1_100 * MS).is_empty(), "too early");
        let percents = pages.look(&clients, 2_000 * MS);
        assert_eq!(percents.into_values().collect::<Vec<_>>(), [45, 20]);
        of_one.page().unwrap().used_ns.store(u64::MAX, Relaxed);
        let percents = pages.look(&clients, 3_000 * MS);
        assert_eq!(percents.into_values().collect::<Vec<_>>(), [100, 0], "no more than there was");
        of_two.page().unwrap().magic.store(0, Relaxed);
        of_two.page().unwrap().used_ns.store(u64::MAX, Relaxed);
        assert_eq!(pages.look(&clients, 4_000 * MS).into_values().collect::<Vec<_>>(), [0, 0], "scribbled over");
    }

    #[test]
    fn a_page_that_says_too_little_for_long_is_told_of() {
        let (client, _own) = client(7, &[1]);
        let (clients, nvml) = ([client], BTreeMap::from([(7, 80)]));
        let mut pages = Pages::default();
        let mut look = |n: u64, nvml: &BTreeMap<u32, u32>| {
            pages.look(&clients, n * 500 * MS);
            pages.compare(&clients, nvml);
            pages.has_said
        };
        assert!(!(1..=6).any(|n| look(n, &nvml)), "not yet");
        look(7, &BTreeMap::from([(7, 30)]));
        assert!(!(8..=12).any(|n| look(n, &nvml)), "from the beginning");
        assert!(!look(13, &BTreeMap::new()), "NVML says nothing of it");
        assert!(look(14, &nvml));
    }
}
