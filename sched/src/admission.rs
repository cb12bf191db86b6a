//! Who may take part, how important they may be, and whether a process is the one it says.

use crate::config::{Config, Rule, Who};
use crate::glob::Glob;
use aishim_abi::channel::Channel;
use aishim_abi::client_page::Identity as Claim;
use aishim_abi::credentials::Credentials;
use aishim_abi::rank::{Class, Priority, Weight};
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
    /// The class of a process that wishes no class and no priority.
    pub(crate) class: Option<Class>,
    /// The weight of a process that wishes none, and the most it may have.
    pub(crate) weight: Option<Weight>,
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

    /// What that process may as a client; none where it may not take part.
    pub(crate) fn rights(&self, uid: u32, pid: Option<u32>) -> Option<Rights> {
        self.rights_of(&self.profile(uid, pid, true))
    }

    /// What the user of that process may ask for others: rules over commands and control groups are about those that they fit, and
    /// not about what asks.
    pub(crate) fn rights_of_user(&self, uid: u32, pid: Option<u32>) -> Option<Rights> {
        self.rights_of(&self.profile(uid, pid, false))
    }

    /// Asks the kernel for no more than there are rules about.
    fn profile(&self, uid: u32, pid: Option<u32>, is_client: bool) -> Profile {
        let asks = |names: fn(&Rule) -> bool| pid.filter(|_| self.config.rules.iter().any(names));
        let client = |names| asks(names).filter(|_| is_client);
        let commands = client(|rule| rule.command.is_some());
        let groups = asks(|rule| matches!(rule.who, Some(Who::Group(_)))).and_then(procfs::groups);
        let program = commands.and_then(procfs::program);
        Profile {
            uid,
            groups: groups.unwrap_or_default(),
            commands: program.into_iter().chain(commands.and_then(procfs::command)).collect(),
            cgroups: client(|rule| rule.cgroup.is_some()).and_then(procfs::cgroups).unwrap_or_default(),
        }
    }

    fn rights_of(&self, profile: &Profile) -> Option<Rights> {
        let is_master = profile.uid == 0 || profile.uid == self.owner;
        let rule = self.config.rules.iter().find(|rule| profile.fits(rule));
        let usual = if is_master { Priority::HIGHEST } else { self.config.highest_priority };
        rule.is_none_or(|rule| rule.allow).then(|| Rights {
            limit: rule.and_then(|rule| rule.highest_priority).unwrap_or(usual),
            class: rule.and_then(|rule| rule.class),
            weight: rule.and_then(|rule| rule.weight),
            clients: (!is_master).then_some(self.config.clients_per_user),
            is_master,
        })
    }
}

/// What rules ask about a process.
#[derive(Clone, Debug, Default)]
struct Profile {
    uid: u32,
    groups: Vec<u32>,
    /// Its program's name and its command line.
    commands: Vec<String>,
    cgroups: Vec<String>,
}

impl Profile {
    fn fits(&self, rule: &Rule) -> bool {
        let is_theirs = rule.who.is_none_or(|who| match who {
            Who::User(user) => user == self.uid,
            Who::Group(group) => self.groups.contains(&group),
        });
        let fits_one = |glob: &Option<Glob>, texts: &[String]| {
            glob.as_ref().is_none_or(|glob| texts.iter().any(|text| glob.fits(text)))
        };
        is_theirs && fits_one(&rule.command, &self.commands) && fits_one(&rule.cgroup, &self.cgroups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let rule = |who, allow, number| Rule {
            who: Some(who),
            allow,
            highest_priority: Priority::new(number),
            ..Rule::default()
        };
        let rules = vec![
            rule(Who::User(7), true, 90),
            rule(Who::Group(50), true, 60),
            rule(Who::Group(51), false, 60),
            rule(Who::User(0), true, 40),
        ];
        Rules::new(Config { rules, ..Config::default() }, 1000)
    }

    fn profile(uid: u32, groups: &[u32]) -> Profile {
        Profile { uid, groups: groups.to_vec(), ..Profile::default() }
    }

    #[test]
    fn rules_name_commands_and_control_groups() {
        let rule = |command: Option<&str>, cgroup: Option<&str>, class| Rule {
            command: command.map(Glob::new),
            cgroup: cgroup.map(Glob::new),
            class: Some(class),
            allow: true,
            ..Rule::default()
        };
        let rules = vec![
            rule(Some("*train*"), Some("/slurm/*"), Class::Batch),
            rule(Some("serve"), None, Class::Inference),
            rule(None, Some("/slurm/*"), Class::Normal),
        ];
        let rules = Rules::new(Config { rules, ..Config::default() }, 1000);
        let class = |command: &str, cgroup: &str| {
            let program = command.split(' ').next().unwrap().to_owned();
            let (commands, cgroups) = (vec![program, command.to_owned()], vec![cgroup.to_owned()]);
            rules.rights_of(&Profile { uid: 7, commands, cgroups, ..Profile::default() }).unwrap().class
        };
        assert_eq!(class("python train.py", "/slurm/job_1"), Some(Class::Batch), "all that it names fits");
        assert_eq!(class("python train.py", "/user.slice"), None);
        assert_eq!(class("serve --port 1", "/slurm/job_1"), Some(Class::Inference), "by the program's name");
        assert_eq!(class("python infer.py", "/slurm/job_1"), Some(Class::Normal));
        assert_eq!(rules.rights_of_user(7, Some(std::process::id())).unwrap().class, None, "not of what asks");
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let limit = |uid, groups: &[u32]| rules().rights_of(&profile(uid, groups)).map(|rights| rights.limit.number());
        assert_eq!(limit(7, &[51]), Some(90));
        assert_eq!(limit(8, &[51, 50]), Some(60));
        assert_eq!(limit(8, &[51]), None);
        assert_eq!(limit(8, &[1]), Some(20));
        assert_eq!(limit(1000, &[1]), Some(100));
        assert_eq!(limit(0, &[]), Some(40), "root can be named like everybody");
    }

    #[test]
    fn only_root_and_the_daemons_own_user_may_change_what_is_others() {
        let is_master = |uid| rules().rights_of(&profile(uid, &[])).is_some_and(|rights| rights.is_master);
        assert!(is_master(0) && is_master(1000) && !is_master(7));
    }
}
