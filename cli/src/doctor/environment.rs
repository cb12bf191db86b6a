//! The variables of the environment that programs started from here inherit.

use super::Finding;
use crate::preload::{LD_PRELOAD, LIBRARY, entries};
use aishim_abi::variables::{self, Variable};
use std::ffi::{OsStr, OsString};
use std::path::Path;

pub(super) fn check() -> Vec<Finding> {
    let mut findings = vec![preloads(std::env::var_os(LD_PRELOAD).as_deref())];
    findings.extend(variables(std::env::vars_os()));
    findings
}

fn preloads(value: Option<&OsStr>) -> Finding {
    let entries: Vec<&OsStr> = entries(value.unwrap_or_default()).collect();
    if entries.is_empty() {
        return Finding::ok("LD_PRELOAD: not set; `aictl run` sets it for the program");
    }
    let shown: Vec<_> = entries.iter().map(|e| e.to_string_lossy()).collect();
    let shown = shown.join(", ");
    let is_path = |e: &&&OsStr| e.to_string_lossy().contains('/');
    let gone = entries.iter().filter(is_path).find(|e| !Path::new(e).exists());
    if let Some(gone) = gone {
        return Finding::warn(
            format!("LD_PRELOAD: {} is not there", gone.to_string_lossy()),
            "take it out of LD_PRELOAD: the loader complains about it at every start",
        );
    }
    let ours = |e: &&&OsStr| Path::new(e).file_name() == Some(OsStr::new(LIBRARY));
    match entries.iter().filter(ours).count() {
        0 => Finding::ok(format!("LD_PRELOAD: {shown}; `aictl run` keeps it behind {LIBRARY}")),
        1 => Finding::ok(format!("LD_PRELOAD: {shown}")),
        _ => Finding::warn(format!("LD_PRELOAD: names {LIBRARY} more than once: {shown}"), "leave one of them"),
    }
}

fn variables(environment: impl Iterator<Item = (OsString, OsString)>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut good = Vec::new();
    for (name, value) in environment {
        let (shown, text) = (name.to_string_lossy(), value.to_string_lossy());
        match Variable::named(&name) {
            Some(variable) if !variable.accepts(&value) => findings.push(Finding::warn(
                format!("environment: {shown}={text} is not taken; it counts as {}", variable.default),
                format!("set it to {}, or unset it", variable.values),
            )),
            Some(_) if shown == variables::PREFIX && value == "off" => findings.push(Finding::warn(
                format!("environment: {shown}=off turns the library off in programs started from here"),
                format!("unset {shown}"),
            )),
            Some(_) => good.push(format!("{shown}={text}")),
            None if variables::is_unknown(&name) => findings.push(unknown(&shown)),
            None => {}
        }
    }
    good.sort();
    findings.sort_by(|a, b| a.text.cmp(&b.text));
    if findings.is_empty() {
        let set = if good.is_empty() { "no variable of aishim is set".to_owned() } else { good.join(", ") };
        findings.push(Finding::ok(format!("environment: {set}")));
    }
    findings
}

fn unknown(name: &str) -> Finding {
    let names: Vec<&str> = variables::ALL.iter().map(|v| v.name).collect();
    Finding::warn(
        format!("environment: {name} is no variable of aishim and does nothing"),
        format!("unset it, or use one of {}", names.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Vec<Finding> {
        variables(pairs.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))))
    }

    #[test]
    fn unknown_and_wrong_variables_are_named_with_their_cure() {
        let findings = of(&[("AISHIM_POOL_MIB", "lots"), ("AISHIM_POOL_SIZE", "1"), ("AISHIM", "off")]);
        assert_eq!(findings.len(), 3);
        assert!(findings.iter().all(|f| f.level == Level::Warn && f.cure.is_some()));
        assert!(findings.iter().any(|f| f.text.contains("AISHIM_POOL_MIB=lots")));
    }

    #[test]
    fn good_variables_are_shown() {
        let findings = of(&[("AISHIM_LOG", "warn"), ("PATH", "/bin"), ("AISHIM_DIR", "/x")]);
        assert_eq!(findings[0].text, "environment: AISHIM_DIR=/x, AISHIM_LOG=warn");
        assert_eq!(of(&[])[0].level, Level::Ok);
    }

    #[test]
    fn preloads_are_shown_and_those_that_are_gone_named() {
        let check = |value: &str| preloads(Some(OsStr::new(value)));
        assert_eq!(check("").level, Level::Ok);
        assert_eq!(check("libjemalloc.so.2").level, Level::Ok);
        assert_eq!(check("/no/such/lib.so").level, Level::Warn);
    }
}
