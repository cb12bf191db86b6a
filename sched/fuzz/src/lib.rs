//! What must hold for every file that an earlier daemon may have left, whoever wrote it: a typed error, or records that can be
//! acted upon.

#![allow(unreachable_pub, reason = "a library to libFuzzer, a module to the tests")]

use aischedd::cpu::journal::{Record, parse};

/// The first line of a good journal of this boot.
const FIRST: &str = "aischedd nice 1 boot\n";

/// The input is a journal; then it is what stands in one behind a good first line. What is understood is written and understood
/// again as the same, and what is cut off at its end takes no other line with it.
pub fn journal(data: &[u8]) {
    examine(data);
    let good = [FIRST.as_bytes(), data].concat();
    examine(&good);
    if let Ok(records) = parse(&good, "boot") {
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        let again = format!("{FIRST}{text}");
        assert_eq!(parse(again.as_bytes(), "boot").as_ref(), Ok(&records));
        if let Some((last, rest)) = records.split_last() {
            let cut = again.len() - 1 - data.len() % (last.to_string().len() + 1);
            assert_eq!(parse(&again.as_bytes()[..cut], "boot").as_deref(), Ok(rest));
        }
    }
}

fn examine(bytes: &[u8]) {
    let records = match parse(bytes, "boot") {
        Ok(records) => records,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for record in records {
        let (before, set) = match record {
            Record::Thread { pid, tid, before, set, .. } => {
                assert!(pid.cast_signed() > 0 && tid.cast_signed() > 0);
                (before, set)
            }
            Record::Group { before, set, .. } => (before, set),
        };
        assert!((-20..=19).contains(&before) && (-20..=19).contains(&set));
    }
}
