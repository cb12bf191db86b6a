//! Who may take part, how important they may be, and whether a process is the one it says.

use crate::config::{Config, Who};
use aishim_abi::channel::Channel;
use aishim_abi::client_page::Identity as Claim;
use aishim_abi::credentials::Credentials;
use aishim_abi::rank::Priority;
use aishim_observe::procfs;
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags};

/// Somebody who has connected, as the kernel knows them.
#[derive(Debug)]
pub(crate) struct Visitor {
    /// Process id in our PID namespace; none where it is outside of that.
    pub(crate) pid: Option<u32>,
    /// User id.
    pub(crate) uid: u32,
    /// The process itself, whatever becomes of its number; readable once it has ended.
    pub(crate) pidfd: Option<OwnedFd>,
}

impl Visitor {
    /// Who is at the other end of a connection that has just been accepted. Taken then and not later: in between the process could end,
    /// leave the connection to a child, and its number to a stranger.
    pub(crate) fn of(channel: &Channel) -> std::io::Result<Self> {
        let Credentials { pid, uid, .. } = channel.peer()?;
        let open = |pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        let pidfd = pid.and_then(|pid| Pid::from_raw(pid.cast_signed())).and_then(open);
        Ok(Self { pid, uid, pidfd })
    }

    /// Whether it is the process that it claims to be, seen from inside of its own PID namespace.
    pub(crate) fn is(&self, claim: &Claim) -> bool {
        let Some(identity) = self.pid.and_then(procfs::Identity::of) else { return false };
        // What /proc says is of that process if that still lives afterwards.
        identity.innermost_pid == claim.pid && identity.start_ticks == claim.start_ticks && self.lives()
    }

    fn lives(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(pidfd) = &self.pidfd else { return false };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ended| ended == 0)
    }
}

/// The rules in force.
#[derive(Debug)]
pub(crate) struct Rules {
    config: Config,
    owner: u32,
}

/// What a user may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// The highest priority they may give.
    pub(crate) limit: Priority,
    /// Most clients they may have; none: as many as there is room for.
    pub(crate) clients: Option<usize>,
    /// Whether all is theirs to change.
    pub(crate) is_master: bool,
}

impl Rules {
    /// The rules of a daemon that runs as user `owner`.
    pub(crate) fn new(config: Config, owner: u32) -> Self {
        Self { config, owner }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What the user of that process may; none where they may not take part.
    pub(crate) fn rights(&self, uid: u32, pid: Option<u32>) -> Option<Rights> {
        let is_by_group = |rule: &crate::config::Rule| matches!(rule.who, Who::Group(_));
        let groups = if self.config.rules.iter().any(is_by_group) { pid.and_then(procfs::groups) } else { None };
        self.rights_in(uid, &groups.unwrap_or_default())
    }

    fn rights_in(&self, uid: u32, groups: &[u32]) -> Option<Rights> {
        let is_master = uid == 0 || uid == self.owner;
        let fits = |who| match who {
            Who::User(user) => user == uid,
            Who::Group(group) => groups.contains(&group),
        };
        let rule = self.config.rules.iter().find(|rule| fits(rule.who));
        let usual = if is_master { Priority::HIGHEST } else { self.config.highest_priority };
        rule.is_none_or(|rule| rule.allow).then(|| Rights {
            limit: rule.and_then(|rule| rule.highest_priority).unwrap_or(usual),
            clients: (!is_master).then_some(self.config.clients_per_user),
            is_master,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Rule;

    fn rules() -> Rules {
        let rule = |who, allow, number| Rule { who, allow, highest_priority: Priority::new(number) };
        let rules = vec![
            rule(Who::User(7), true, 90),
            rule(Who::Group(50), true, 60),
            rule(Who::Group(51), false, 60),
            rule(Who::User(0), true, 40),
        ];
        Rules::new(Config { rules, ..Config::default() }, 1000)
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let limit = |uid, groups: &[u32]| rules().rights_in(uid, groups).map(|rights| rights.limit.number());
        assert_eq!(limit(7, &[51]), Some(90));
        assert_eq!(limit(8, &[51, 50]), Some(60));
        assert_eq!(limit(8, &[51]), None);
        assert_eq!(limit(8, &[1]), Some(20));
        assert_eq!(limit(1000, &[1]), Some(100));
        assert_eq!(limit(0, &[]), Some(40), "root can be named like everybody");
    }

    #[test]
    fn only_root_and_the_daemons_own_user_may_change_what_is_others() {
        let is_master = |uid| rules().rights_in(uid, &[]).is_some_and(|rights| rights.is_master);
        assert!(is_master(0) && is_master(1000) && !is_master(7));
    }
}
