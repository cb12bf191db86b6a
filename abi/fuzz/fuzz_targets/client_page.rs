//! libFuzzer entry for [`aishim_abi_fuzz::client_page`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aishim_abi_fuzz::client_page(data));
