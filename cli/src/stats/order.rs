//! How a process stands in the order of launches: its class, its weight, whether launches of it wait at the gate.

use aishim_abi::layout::Coordinator;
use aishim_abi::rank::{Class, ClassReason};
use aishim_abi::statistics::Statistic;
use aishim_observe::{Process, State};
use std::fmt::Write;

/// It, of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whether it is a client of a coordinator; what follows means nothing else, but the class that was asked for.
    pub(crate) is_client: bool,
    /// What was said of it; none where nobody has.
    pub(crate) class: Option<Class>,
    /// What its behaviour suggests, and why.
    pub(crate) suggested: Option<(Class, ClassReason)>,
    /// Its share among those with whom it takes turns.
    pub(crate) weight: Option<u64>,
    /// Share of the last second in which a launch waited at the gate, in thousandths.
    pub(crate) gated_per_mille: Option<u64>,
    /// Whether a launch waits there now, and for whom, by its own PID; 0 for nobody in particular.
    pub(crate) gated_by: Option<u64>,
}

impl Standing {
    pub(crate) fn of(process: &Process) -> Self {
        let of = |which| process.statistic(which);
        let is_client = !process.has_ended() && of(Statistic::Coordinator) == Coordinator::Client.number();
        let class = |which| {
            let class = u32::try_from(of(which)).ok().and_then(Class::from_number);
            class.filter(|class| *class != Class::Unclassified)
        };
        let reason = u32::try_from(of(Statistic::ClassReason)).ok().and_then(ClassReason::from_number);
        let suggested = class(Statistic::ClassSuggested).map(|class| (class, reason.unwrap_or(ClassReason::Unseen)));
        let while_client = |which| is_client.then(|| of(which));
        Self {
            is_client,
            class: class(Statistic::Class),
            suggested,
            weight: while_client(Statistic::Weight).filter(|weight| *weight > 0),
            gated_per_mille: while_client(Statistic::GatedShare),
            gated_by: while_client(Statistic::GatedBy).filter(|_| of(Statistic::GateWaiting) > 0),
        }
    }

    /// The class in a word: what was said, or else what is suggested, in brackets.
    pub(super) fn class_word(&self) -> String {
        match (self.class, self.suggested) {
            (Some(Class::Auto), Some((suggested, _))) => format!("auto:{suggested}"),
            (Some(class), _) => class.to_string(),
            (None, Some((suggested, _))) => format!("({suggested})"),
            (None, None) => "-".to_owned(),
        }
    }

    /// Lines of a process's details.
    pub(super) fn details(&self, page: &mut String) {
        let said = self.class.map_or_else(|| "none was asked for".to_owned(), |class| class.to_string());
        let suggested = match self.suggested {
            Some((class, reason)) => format!("its behaviour suggests {class}: {reason}"),
            None if self.is_client => "too little was seen of it yet to suggest one".to_owned(),
            None => "none is suggested: behaviour is watched while there is a coordinator".to_owned(),
        };
        let _ = writeln!(page, "Class: {said}; {suggested}");
        if let (Some(weight), Some(share)) = (self.weight, self.gated_per_mille) {
            let gated = format!("{}.{}", share / 10, share % 10);
            let _ = writeln!(page, "Weight {weight}; launches waited at the gate for {gated} % of the last second");
        }
    }
}

/// What a process is doing, with whom it waits for.
pub(super) fn state(process: &Process, standing: &Standing) -> Option<String> {
    match (process.state, standing.gated_by) {
        (State::Ended, _) | (_, None) => None,
        (_, Some(0)) => Some("gated".to_owned()),
        (_, Some(pid)) => Some(format!("gated by {pid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_was_said_goes_before_one_that_is_suggested() {
        let suggested = Some((Class::Batch, ClassReason::Continuous));
        let word = |class, suggested| {
            let standing =
                Standing { is_client: true, class, suggested, weight: None, gated_per_mille: None, gated_by: None };
            standing.class_word()
        };
        assert_eq!(word(Some(Class::Inference), suggested), "inference");
        assert_eq!(word(Some(Class::Auto), suggested), "auto:batch");
        assert_eq!(word(Some(Class::Auto), None), "auto");
        assert_eq!((word(None, suggested), word(None, None)), ("(batch)".to_owned(), "-".to_owned()));
    }
}
