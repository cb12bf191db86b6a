//! What CMD is to ask of the coordinator, and of NVIDIA's MPS where that is in use, said in its environment.

use aishim_abi::rank::{Class, Priority, Weight};
use std::ffi::OsString;
use std::process::Command;

const CLASS: &str = "AISHIM_CLASS";
const PRIORITY: &str = "AISHIM_PRIORITY";
const WEIGHT: &str = "AISHIM_WEIGHT";

/// Priority of a client of MPS: 0 is normal, 1 is below normal (NVIDIA, Multi-Process Service, CUDA_MPS_CLIENT_PRIORITY).
const MPS_PRIORITY: &str = "CUDA_MPS_CLIENT_PRIORITY";

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Wishes {
    /// What kind of work CMD does: inference (priority 80), normal (20), batch (5), or auto: what its behaviour suggests
    #[arg(long, value_name = "CLASS", value_parser = class)]
    class: Option<Class>,

    /// How important CMD is, 0 to 100, higher is more; goes before the priority of the class
    #[arg(long, value_name = "N", value_parser = priority)]
    priority: Option<Priority>,

    /// Its share among those with whom it takes turns, 1 to 10000; 100 is usual
    #[arg(long, value_name = "N", value_parser = weight)]
    weight: Option<Weight>,
}

/// A class that can be asked for.
pub(crate) fn class(text: &str) -> Result<Class, String> {
    let class = Class::from_name(text).filter(|class| *class != Class::Unclassified);
    class.ok_or_else(|| "there are inference, normal, batch and auto".to_owned())
}

/// A priority.
pub(crate) fn priority(text: &str) -> Result<Priority, String> {
    let number = text.parse().ok().and_then(Priority::new);
    number.ok_or_else(|| "a priority is a number from 0 to 100".to_owned())
}

/// A share.
pub(crate) fn weight(text: &str) -> Result<Weight, String> {
    let number = text.parse().ok().and_then(Weight::new);
    number.ok_or_else(|| "a weight is a number from 1 to 10000".to_owned())
}

impl Wishes {
    /// Writes them into the environment of `command`; what is not wished stays as it is there.
    pub(super) fn apply(&self, command: &mut Command) {
        for (name, value) in self.changes(std::env::var_os(MPS_PRIORITY)) {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }

    fn changes(&self, mps_priority: Option<OsString>) -> Vec<(&'static str, Option<String>)> {
        let mut changes = Vec::new();
        if let Some(class) = self.class {
            changes.push((CLASS, Some(class.name().to_owned())));
            // A number that the environment happens to hold would go before the class that was asked for here.
            changes.push((PRIORITY, None));
        }
        if let Some(priority) = self.priority {
            changes.push((PRIORITY, Some(priority.number().to_string())));
        }
        if let Some(weight) = self.weight {
            changes.push((WEIGHT, Some(weight.number().to_string())));
        }
        let counts = self.priority.or(self.class.and_then(Class::priority));
        if let (Some(priority), None) = (counts, mps_priority) {
            changes.push((MPS_PRIORITY, Some(u32::from(priority < Priority::NORMAL).to_string())));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(class: Option<Class>, number: Option<u32>) -> Vec<(&'static str, Option<String>)> {
        Wishes { class, priority: number.and_then(Priority::new), weight: None }.changes(None)
    }

    #[test]
    fn a_number_goes_before_a_class() {
        let said = |text: &str| Some(text.to_owned());
        let batch = [(CLASS, said("batch")), (PRIORITY, None), (MPS_PRIORITY, said("1"))];
        assert_eq!(changes(Some(Class::Batch), None), batch);
        let both = [(CLASS, said("batch")), (PRIORITY, None), (PRIORITY, said("30")), (MPS_PRIORITY, said("0"))];
        assert_eq!(changes(Some(Class::Batch), Some(30)), both);
        assert_eq!(changes(None, Some(19)), [(PRIORITY, said("19")), (MPS_PRIORITY, said("1"))]);
        assert_eq!(changes(Some(Class::Auto), None), [(CLASS, said("auto")), (PRIORITY, None)]);
        assert!(changes(None, None).is_empty(), "what is not asked for stays as it is");
    }

    #[test]
    fn what_was_said_to_mps_before_stays() {
        let wishes = Wishes { class: Some(Class::Batch), ..Wishes::default() };
        assert!(wishes.changes(Some("0".into())).iter().all(|(name, _)| *name != MPS_PRIORITY));
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        assert!(class("unclassified").is_err() && class("auto").is_ok());
        assert!(priority("101").is_err() && priority("-1").is_err() && priority("0").is_ok());
        assert!(weight("0").is_err() && weight("10001").is_err() && weight("10000").is_ok());
    }
}
