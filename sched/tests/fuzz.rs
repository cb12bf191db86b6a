//! The fuzz targets, driven by random input without libFuzzer.

#[path = "../fuzz/src/lib.rs"]
mod cases;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn journal(data in vec(any::<u8>(), 0..400)) {
        cases::journal(&data);
    }

    #[test]
    fn journal_of_lines(lines in vec("(thread|group)( [0-9]{1,10}){1,5} -?[0-9]{1,2} -?[0-9]{1,2}|aischedd nice 1 boot", 0..8), cut in 0_usize..20) {
        let text = lines.join("\n") + "\n";
        cases::journal(&text.as_bytes()[..text.len().saturating_sub(cut)]);
    }

    #[test]
    fn journal_of_good_lines(lines in vec("thread [1-9]{1,9} [0-9]{1,18} [1-9]{1,9} [0-9]{1,18} -?1?[0-9] -?1?[0-9]|group [0-9]{1,18} 1?[0-9] -?1?[0-9]", 0..8)) {
        cases::journal((lines.join("\n") + "\n").as_bytes());
    }
}
