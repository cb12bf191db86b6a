//! The file of settings and rules, TOML:
//!
//! ```toml
//! default_priority = 20     # of a process that wishes none, its limit permitting
//! highest_priority = 20     # that users may give whom no rule names; root and the daemon's own user may give 100
//! clients_per_user = 256    # likewise
//! policy = "priority"       # in force at first
//!
//! [cpu]                     # nice values of clients' threads, changed only where they can be put back
//! nice = true               # false changes none
//! latency_critical = -5     # added above priority 20 while the GPU waits for launches: -20 to 0
//! best_effort = 5           # added below priority 20 while it is saturated: 0 to 19
//!
//! [[rule]]                  # the first that fits counts
//! user = "alice"            # or `group`; a name or a number
//! highest_priority = 100
//!
//! [[rule]]
//! command = "*train*"       # of the program's name, or of the whole command line; * and ? stand for any characters, any one
//! cgroup = "/slurm/*"       # all that a rule names has to fit
//! class = "batch"           # of those that wish no class and no priority
//! weight = 50               # of those that wish none, and the most that they may have
//!
//! [[rule]]
//! group = "guests"
//! allow = false             # their processes run as if there were no daemon
//! ```
//!
//! A key that is not in this list, a name that nobody has, a number out of range: each is an error with its line, and the daemon
//! does not start. A rule that is not understood must not be a rule that is not applied.

use crate::cpu::niceness::Settings as Cpu;
use crate::glob::Glob;
use aishim_abi::rank::{Class, PolicyKind, Priority, Weight};
use aishim_observe::user;
use serde::Deserialize;
use std::fmt;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The settings of a system's daemon.
const OF_SYSTEM: &str = "/etc/aishim/aischedd.toml";

/// Where a user's own lies, below the folder of settings.
const OF_USER: &str = "aishim/aischedd.toml";

/// What the file says; without one, what holds anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The priority of a process that wishes none.
    pub default_priority: Priority,
    /// The highest that users may give whom no rule names.
    pub highest_priority: Priority,
    /// Most clients of one user.
    pub clients_per_user: usize,
    /// The policy at first.
    pub policy: PolicyKind,
    /// Nice values of clients' threads.
    pub cpu: Cpu,
    /// The first that fits counts.
    pub rules: Vec<Rule>,
}

/// What holds for some processes: those for which all fits that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Whose they are.
    pub who: Option<Who>,
    /// Their program's name or whole command line, which is what they say of themselves.
    pub command: Option<Glob>,
    /// Their control group.
    pub cgroup: Option<Glob>,
    /// The class of those that wish no class and no priority.
    pub class: Option<Class>,
    /// The weight of those that wish none, and the most that they may have.
    pub weight: Option<Weight>,
    /// Whether they may take part.
    pub allow: bool,
    /// The highest priority they may give; none: as without a rule.
    pub highest_priority: Option<Priority>,
}

/// Whom a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// One user.
    User(u32),
    /// All users that are in a group.
    Group(u32),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_priority: Priority::NORMAL,
            highest_priority: Priority::NORMAL,
            clients_per_user: 256,
            policy: PolicyKind::Priority,
            cpu: Cpu::default(),
            rules: Vec::new(),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what.trim_end())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// The configuration in the file that was named, or in the first of the usual ones that exists.
    ///
    /// # Errors
    /// [`ConfigError`], with the line, where a file cannot be read or understood.
    pub fn load(named: Option<&Path>, is_system: bool) -> Result<(Self, Option<PathBuf>), ConfigError> {
        if let Some(path) = named {
            let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))?;
            return Ok((Self::parse(&text, path)?, Some(path.to_owned())));
        }
        for path in usual(is_system) {
            match std::fs::read_to_string(&path) {
                Ok(text) => return Ok((Self::parse(&text, &path)?, Some(path))),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(unreadable(&path, &e)),
            }
        }
        Ok((Self::default(), None))
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let failed = |what| ConfigError { path: path.to_owned(), what };
        let file: File = toml::from_str(text).map_err(|e| failed(e.to_string()))?;
        file.check().map_err(|wrong| failed(wrong.at_line_of(text)))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError { path: path.to_owned(), what: format!("cannot be read: {error}") }
}

/// A user's own file comes first, but has no say in what the system's daemon does.
fn usual(is_system: bool) -> Vec<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    let own = folder.filter(|_| !is_system).map(|folder| folder.join(OF_USER));
    own.into_iter().chain([PathBuf::from(OF_SYSTEM)]).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default_priority: Option<Spanned<u32>>,
    highest_priority: Option<Spanned<u32>>,
    clients_per_user: Option<Spanned<usize>>,
    policy: Option<Spanned<String>>,
    #[serde(default)]
    cpu: FileCpu,
    #[serde(default)]
    rule: Vec<Spanned<FileRule>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCpu {
    nice: Option<bool>,
    latency_critical: Option<Spanned<i32>>,
    best_effort: Option<Spanned<i32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    user: Option<Spanned<NameOrNumber>>,
    group: Option<Spanned<NameOrNumber>>,
    command: Option<String>,
    cgroup: Option<String>,
    class: Option<Spanned<String>>,
    weight: Option<Spanned<u32>>,
    highest_priority: Option<Spanned<u32>>,
    #[serde(default = "yes")]
    allow: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NameOrNumber {
    Number(u32),
    Name(String),
}

fn yes() -> bool {
    true
}

/// What is wrong, and where in the text.
struct Wrong {
    what: String,
    place: Range<usize>,
}

impl Wrong {
    fn new(what: String, place: Range<usize>) -> Self {
        Self { what, place }
    }

    fn at_line_of(self, text: &str) -> String {
        let before = text.get(..self.place.start).unwrap_or(text);
        format!("line {}: {}", before.matches('\n').count() + 1, self.what)
    }
}

impl File {
    fn check(self) -> Result<Config, Wrong> {
        let usual = Config::default();
        let rules = self.rule.into_iter().map(FileRule::check).collect::<Result<_, _>>()?;
        Ok(Config {
            default_priority: priority(self.default_priority)?.unwrap_or(usual.default_priority),
            highest_priority: priority(self.highest_priority)?.unwrap_or(usual.highest_priority),
            clients_per_user: self.clients_per_user.map_or(usual.clients_per_user, Spanned::into_inner),
            cpu: self.cpu.check()?,
            policy: self.policy.map(policy).transpose()?.unwrap_or(usual.policy),
            rules,
        })
    }
}

impl FileCpu {
    fn check(self) -> Result<Cpu, Wrong> {
        let usual = Cpu::default();
        Ok(Cpu {
            is_on: self.nice.unwrap_or(usual.is_on),
            latency_critical: nice("latency_critical", self.latency_critical, -20..=0)?
                .unwrap_or(usual.latency_critical),
            best_effort: nice("best_effort", self.best_effort, 0..=19)?.unwrap_or(usual.best_effort),
        })
    }
}

fn nice(key: &str, number: Option<Spanned<i32>>, range: RangeInclusive<i32>) -> Result<Option<i32>, Wrong> {
    let Some(number) = number else { return Ok(None) };
    let (found, first, last) = (*number.get_ref(), range.start(), range.end());
    let what = || Wrong::new(format!("cpu.{key} is from {first} to {last}, not {found}"), number.span());
    range.contains(&found).then_some(Some(found)).ok_or_else(what)
}

impl FileRule {
    fn check(rule: Spanned<Self>) -> Result<Rule, Wrong> {
        let place = rule.span();
        let rule = rule.into_inner();
        let who = match (rule.user, rule.group) {
            (Some(named), None) => Some(Who::User(number_of("user", named, user::uid_named)?)),
            (None, Some(named)) => Some(Who::Group(number_of("group", named, user::gid_named)?)),
            (None, None) if rule.command.is_some() || rule.cgroup.is_some() => None,
            _ => {
                let what = "a rule names a user or a group, and not both, or a command or a cgroup";
                return Err(Wrong::new(what.to_owned(), place));
            }
        };
        Ok(Rule {
            who,
            command: rule.command.as_deref().map(Glob::new),
            cgroup: rule.cgroup.as_deref().map(Glob::new),
            class: rule.class.as_ref().map(class).transpose()?,
            weight: rule.weight.as_ref().map(weight).transpose()?,
            allow: rule.allow,
            highest_priority: priority(rule.highest_priority)?,
        })
    }
}

fn number_of(kind: &str, named: Spanned<NameOrNumber>, look_up: impl Fn(&str) -> Option<u32>) -> Result<u32, Wrong> {
    let place = named.span();
    match named.into_inner() {
        NameOrNumber::Number(number) => Ok(number),
        NameOrNumber::Name(name) => {
            look_up(&name).ok_or_else(|| Wrong::new(format!("there is no {kind} `{name}`"), place))
        }
    }
}

fn priority(number: Option<Spanned<u32>>) -> Result<Option<Priority>, Wrong> {
    let Some(number) = number else { return Ok(None) };
    let out_of_range = || Wrong::new(format!("a priority is from 0 to 100, not {}", number.get_ref()), number.span());
    Priority::new(*number.get_ref()).ok_or_else(out_of_range).map(Some)
}

fn class(name: &Spanned<String>) -> Result<Class, Wrong> {
    let class = Class::from_name(name.get_ref()).filter(|class| *class != Class::Unclassified);
    let unknown = || format!("there is no class `{}`; there are inference, normal, batch, auto", name.get_ref());
    class.ok_or_else(|| Wrong::new(unknown(), name.span()))
}

fn weight(number: &Spanned<u32>) -> Result<Weight, Wrong> {
    let out_of_range = || format!("a weight is from 1 to 10000, not {}", number.get_ref());
    Weight::new(*number.get_ref()).ok_or_else(|| Wrong::new(out_of_range(), number.span()))
}

fn policy(name: Spanned<String>) -> Result<PolicyKind, Wrong> {
    let place = name.span();
    let known = || PolicyKind::ALL.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ");
    let name = name.into_inner();
    PolicyKind::from_name(&name)
        .ok_or_else(|| Wrong::new(format!("there is no policy `{name}`; there are {}", known()), place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("x.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_said_holds_anyway() {
        assert_eq!(parse("").unwrap(), Config::default());
        let config = parse("default_priority = 5\npolicy = 'fair'").unwrap();
        assert_eq!((config.default_priority.number(), config.policy), (5, PolicyKind::Fair));
    }

    #[test]
    fn nice_values_are_settings() {
        let cpu = parse("[cpu]\nnice = false\nlatency_critical = -3\nbest_effort = 19").unwrap().cpu;
        assert_eq!(cpu, Cpu { is_on: false, latency_critical: -3, best_effort: 19 });
    }

    #[test]
    fn rules_name_users_and_groups_by_name_and_number() {
        let text = "[[rule]]\nuser = 'root'\nhighest_priority = 7\n[[rule]]\ngroup = 12\nallow = false";
        let rule = |who, allow, highest| Rule { who: Some(who), allow, highest_priority: highest, ..Rule::default() };
        let expected = [rule(Who::User(0), true, Priority::new(7)), rule(Who::Group(12), false, None)];
        assert_eq!(parse(text).unwrap().rules, expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            ("\n\nhighest = 3", "line 3", "highest"),
            ("[[rule]]\nuser = 'root'\nlimit = 3", "line 3", "limit"),
            ("x", "line 1", "="),
            ("default_priority = 101", "line 1", "101"),
            ("\ndefault_priority = 'high'", "line 2", "high"),
            ("\n[[rule]]\nhighest_priority = 3", "line 2", "user or a group"),
            ("\n[[rule]]\nuser = 1\ngroup = 1", "line 2", "not both"),
            ("[[rule]]\nuser = 'nobody of that name'", "line 2", "nobody of that name"),
            ("[[rule]]\ngroup = 'x y'", "line 2", "x y"),
            ("[[rule]]\nuser = 1\nhighest_priority = 101", "line 3", "101"),
            ("[[rule]]\ncommand = 'x'\nclass = 'best'", "line 3", "inference, normal, batch, auto"),
            ("[[rule]]\ncgroup = 'x'\nweight = 0", "line 3", "10000"),
            ("[[rule]]\ncommand = 'x'\nnice = 3", "line 3", "nice"),
            ("policy = 'best'", "line 1", "off, priority, fair"),
            ("[cpu]\nlatency_critical = 1", "line 2", "cpu.latency_critical is from -20 to 0, not 1"),
            ("[cpu]\nlatency_critical = -21", "line 2", "from -20 to 0"),
            ("\n[cpu]\nbest_effort = -1", "line 3", "cpu.best_effort is from 0 to 19, not -1"),
            ("[cpu]\nnice = 1", "line 2", "bool"),
            ("[cpu]\nsmall = 1", "line 2", "small"),
        ];
        for (text, line, word) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(line) && error.contains(word), "{text:?}: {error}");
        }
    }
}
