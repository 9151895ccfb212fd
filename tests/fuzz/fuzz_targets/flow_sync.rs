#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lb_tests::fuzz::flow_sync(bytes);
});
