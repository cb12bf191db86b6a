//! libFuzzer entry for [`aischedd_fuzz::journal`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aischedd_fuzz::journal(data));
