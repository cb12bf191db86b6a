//! The GPUs that clients use: their places on the board, and the policy of each.

use crate::order::{self, Decision, Event, Order};
use aishim_abi::board::{GPUS, TURN_GRACE_NS, Turn};
use aishim_abi::board_writer::Board;
use aishim_abi::rank::{PolicyKind, Uuid};

/// One GPU that somebody uses.
#[derive(Debug)]
struct Gpu {
    uuid: Uuid,
    clients: usize,
    order: Box<dyn Order>,
    /// Who has a turn, by rank.
    turns: Vec<(u32, Turn)>,
    /// Until when all its gates are open, or were.
    open_until_ns: u64,
}

/// All of them, by their places on the board.
#[derive(Debug)]
pub(crate) struct Gpus {
    places: Vec<Option<Gpu>>,
    /// Those that somebody uses, and those with clients whose pages are to be looked at, as bits: of all places a few.
    used: u64,
    watched: u64,
    /// Whether a turn has changed since that was last asked.
    has_turned: bool,
    /// Whether all gates of one were opened since that was last asked.
    has_opened: bool,
    /// The policy of those that come later.
    policy: PolicyKind,
    start: Start,
    decisions: Vec<Decision>,
}

/// Where policies come from.
type Start = fn(PolicyKind) -> Option<Box<dyn Order>>;

impl Gpus {
    /// None yet; none at all where there is no such policy.
    pub(crate) fn new(policy: PolicyKind) -> Option<Self> {
        Self::with(policy, order::start)
    }

    pub(crate) fn with(policy: PolicyKind, start: Start) -> Option<Self> {
        start(policy)?;
        let places = (0..GPUS).map(|_| None).collect();
        Some(Self {
            places,
            used: 0,
            watched: 0,
            has_turned: false,
            has_opened: false,
            policy,
            start,
            decisions: Vec::new(),
        })
    }

    /// The place of a GPU, which has one more client from now on; none where there is no room.
    pub(crate) fn enter(&mut self, uuid: Uuid, board: &mut Board) -> Option<usize> {
        let place = self.place_of(uuid).or_else(|| self.make(uuid, board))?;
        if let Some(gpu) = self.places.get_mut(place).and_then(Option::as_mut) {
            gpu.clients += 1;
            board.set_gpu_clients(place, gpu.clients);
        }
        self.count();
        Some(place)
    }

    /// A client has left; the last one's GPU leaves the board.
    pub(crate) fn leave(&mut self, place: usize, board: &mut Board) {
        let Some(slot) = self.places.get_mut(place) else { return };
        let Some(gpu) = slot else { return };
        gpu.clients = gpu.clients.saturating_sub(1);
        board.set_gpu_clients(place, gpu.clients);
        if gpu.clients == 0 {
            *slot = None;
            board.set_policy(place, PolicyKind::Off, false);
            board.set_gpu(place, Uuid::NONE);
        }
        self.count();
    }

    /// The place of a GPU that somebody uses.
    pub(crate) fn place_of(&self, uuid: Uuid) -> Option<usize> {
        self.places.iter().position(|place| place.as_ref().is_some_and(|gpu| gpu.uuid == uuid))
    }

    /// The UUID of the GPU at a place.
    pub(crate) fn uuid_of(&self, place: usize) -> Option<Uuid> {
        Some(self.places.get(place)?.as_ref()?.uuid)
    }

    /// Tells a GPU's policy what happened and writes down what it decides.
    pub(crate) fn tell(&mut self, place: usize, event: Event, now_ns: u64, board: &mut Board) {
        let Some(gpu) = self.places.get_mut(place).and_then(Option::as_mut) else { return };
        gpu.order.decide(now_ns, event, &mut self.decisions);
        for decision in self.decisions.drain(..) {
            match decision {
                Decision::Turn { rank, turn, until_ns } => {
                    gpu.turns.retain(|(of, _)| *of != rank.number());
                    if turn != Turn::Everybody {
                        gpu.turns.push((rank.number(), turn));
                    }
                    self.has_turned = true;
                    board.set_turn(place, rank.number() as usize, turn, until_ns.saturating_add(TURN_GRACE_NS));
                }
                Decision::Open { until_ns } => {
                    gpu.open_until_ns = until_ns;
                    self.has_opened |= until_ns > now_ns;
                    board.set_open(place, until_ns);
                }
            }
        }
    }

    /// Tells those that time has passed whose moment has come.
    pub(crate) fn pass_time(&mut self, now_ns: u64, board: &mut Board) {
        for place in bits(self.used) {
            if self.order(place).and_then(Order::wake_ns).is_some_and(|wake_ns| wake_ns <= now_ns) {
                self.tell(place, Event::TimePassed, now_ns, board);
            }
        }
    }

    /// When the next of them wants to be told.
    pub(crate) fn wake_ns(&self) -> Option<u64> {
        bits(self.used).filter_map(|place| self.order(place)?.wake_ns()).min()
    }

    /// Which GPUs have clients whose pages are to be looked at, as bits. One alone is in nobody's way.
    pub(crate) fn watched(&self) -> u64 {
        self.watched
    }

    /// Whether a turn has changed since this was last asked.
    pub(crate) fn take_turned(&mut self) -> bool {
        std::mem::take(&mut self.has_turned)
    }

    /// Whether a turn has changed since that was last asked.
    pub(crate) fn has_turned(&self) -> bool {
        self.has_turned
    }

    /// Whether all gates of one were opened since that was last asked.
    pub(crate) fn take_opened(&mut self) -> bool {
        std::mem::take(&mut self.has_opened)
    }

    /// Whether all gates are open of one of those GPUs, given as bits.
    pub(crate) fn is_any_open(&self, gpus: u64, now_ns: u64) -> bool {
        let is_open = |place: usize| self.places.get(place)?.as_ref().map(|gpu| now_ns < gpu.open_until_ns);
        bits(gpus & self.used).any(|place| is_open(place) == Some(true))
    }

    /// All turns that are somebody's.
    pub(crate) fn turns(&self) -> impl Iterator<Item = Turn> + '_ {
        bits(self.watched)
            .filter_map(|place| self.places.get(place)?.as_ref())
            .flat_map(|gpu| gpu.turns.iter().map(|(_, turn)| *turn))
    }

    /// Puts another policy in force on those GPUs; false where this daemon has no such. Who is there has to be told anew.
    pub(crate) fn switch(&mut self, places: &[usize], policy: PolicyKind, board: &mut Board) -> bool {
        for place in places {
            let Some(order) = (self.start)(policy) else { return false };
            board.set_policy(*place, policy, order.is_by_rank());
            if let Some(gpu) = self.places.get_mut(*place).and_then(Option::as_mut) {
                gpu.order = order;
                gpu.turns.clear();
            }
        }
        self.has_turned = true;
        self.count();
        (self.start)(policy).is_some()
    }

    /// The policy of those that come later.
    pub(crate) fn set_usual_policy(&mut self, policy: PolicyKind) {
        self.policy = policy;
    }

    /// The places of all that somebody uses.
    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.order(*place).is_some()).collect()
    }

    /// Notes which places are used, after a change.
    fn count(&mut self) {
        let is_watched = |gpu: &Gpu| gpu.clients > 1 && gpu.order.looks();
        (self.used, self.watched) = (0, 0);
        for (place, gpu) in self.places.iter().enumerate().filter_map(|(place, gpu)| Some((place, gpu.as_ref()?))) {
            self.used |= 1 << place;
            self.watched |= u64::from(is_watched(gpu)) << place;
        }
    }

    fn order(&self, place: usize) -> Option<&dyn Order> {
        Some(&*self.places.get(place)?.as_ref()?.order)
    }

    fn make(&mut self, uuid: Uuid, board: &mut Board) -> Option<usize> {
        let place = self.places.iter().position(Option::is_none)?;
        let order = (self.start)(self.policy)?;
        board.set_gpu(place, uuid);
        board.set_policy(place, self.policy, order.is_by_rank());
        *self.places.get_mut(place)? = Some(Gpu { uuid, clients: 0, order, turns: Vec::new(), open_until_ns: 0 });
        Some(place)
    }
}

/// The places of a set, the lowest first.
fn bits(mut of: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (of != 0).then(|| of.trailing_zeros() as usize)?;
        of &= of - 1;
        Some(lowest)
    })
}
